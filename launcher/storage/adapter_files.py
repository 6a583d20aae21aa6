"""What peft calls the files of an adapter.

read: peft/utils/constants.py at 0.21.2, CONFIG_NAME and SAFETENSORS_WEIGHTS_NAME. Its import
takes seconds, these names do not.
"""

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
