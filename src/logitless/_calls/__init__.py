"""What a call is made of: targets, options, objectives, and what becomes of the states of rows."""
