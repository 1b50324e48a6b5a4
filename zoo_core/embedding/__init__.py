"""What makes training on a pretrained backbone cheap."""
