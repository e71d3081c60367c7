"""What a training is worth: the paper's Table 2 and figure 4, and the model card."""
