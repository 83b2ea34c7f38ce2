"""What is made of convolutions and ops: convolutions with a fast double backward, and with resampling."""
