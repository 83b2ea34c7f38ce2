"""What is made of convolutions and ops."""
