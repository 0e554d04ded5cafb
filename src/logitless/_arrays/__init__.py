"""Arrays as they come in: checked, or refused with a clear error."""
