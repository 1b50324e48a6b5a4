"""Train the feature pyramid and the end of the keypoint head of a detector, and nothing else."""

import zoo_core as zoo

model = zoo.get("keypointrcnn_resnet50_fpn", weights=None, options={"num_keypoints": 5})

zoo.freeze(model, "all")
zoo.unfreeze(model, "backbone.fpn.*", "roi_heads.keypoint_predictor")
zoo.unfreeze(model, "roi_heads.keypoint_head", last=2)

trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
print("\n".join(dict.fromkeys(name.rpartition(".")[0] for name in trainable)))

groups = zoo.param_groups(model, lr=1e-4)
print(sum(len(group["params"]) for group in groups), "parameters for the optimizer")
