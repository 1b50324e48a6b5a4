"""``zoo demo``: the main job on the model that ships with zoo, on real data, without a network."""
