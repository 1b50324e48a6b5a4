"""The first layer: another number of input channels, with pretrained filters kept."""
