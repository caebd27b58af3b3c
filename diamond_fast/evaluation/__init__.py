"""What a trained agent is worth: its returns in real games, and its world model on episodes it was not trained on."""
