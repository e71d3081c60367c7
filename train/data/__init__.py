"""From labelled cases to batches: cases, cache, sampling, augmentation."""
