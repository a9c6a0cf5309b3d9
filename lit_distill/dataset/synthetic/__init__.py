"""What can be learned: images pixel by pixel, or something they are made from."""
