"""Parts of a forward: backbone and head, feature maps, encoders, fronts and branches."""
