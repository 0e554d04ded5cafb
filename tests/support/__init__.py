"""What tests share: truths to compare with, inputs, processes and what they take."""
