"""What a backbone is worth: trainings with it, without it and with controls, on the same seeds, and statistics."""
