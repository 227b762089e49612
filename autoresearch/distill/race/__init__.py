"""What a student is worth: on what was held out, and in whole searches."""
