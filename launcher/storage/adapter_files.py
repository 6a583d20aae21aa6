"""The names that peft gives to the files of an adapter.

read: peft/utils/constants.py at 0.21.2, CONFIG_NAME and SAFETENSORS_WEIGHTS_NAME. They are
repeated here because the import of peft takes seconds.
"""

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
