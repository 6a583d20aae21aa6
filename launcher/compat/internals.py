"""Table of the names that launch relies on and that their libraries do not promise to keep.

launcher/compat/check_internals.py holds it against what is installed. To lift a library's version:
run that, read what it names in the library's source, mend the module here, and raise ``read``.
"""

from typing import NamedTuple


class Internal(NamedTuple):
    """One name of a library, and what must hold of it."""

    name: str
    """Dotted name, from the module on."""
    use: str
    """What launch does with it."""
    parameters: tuple[str, ...] | None = None
    """Parameters that launch passes, takes or overrides, all required ones among them; None if it
    is not a function, or one written in C."""
    mentions: tuple[str, ...] = ()
    """Texts in its source, or in the value of a constant."""


class Library(NamedTuple):
    """The names of one library."""

    name: str
    """Distribution, and module to import."""
    read: str
    """Version whose source was read."""
    internals: tuple[Internal, ...]


TORCH = Library(
    "torch",
    "2.13.0",
    (
        Internal(
            "torch.utils._python_dispatch.TorchDispatchMode.__torch_dispatch__",
            "overridden: a trace handles every operator",
            ("func", "types", "args", "kwargs"),
        ),
        Internal(
            "torch.utils._python_dispatch.TorchDispatchMode._should_skip_dynamo",
            "overridden: autograd's engine calls the method above without frames between",
            (),
        ),
        Internal(
            "torch.autograd.graph._engine_run_backward",
            "name of the frame that tells autograd's engine from Python code",
        ),
        Internal(
            "torch.utils._pytree.tree_map_only",
            "tensors in an operator's result",
            ("type_or_types_or_pred", "func", "tree"),
        ),
        Internal("torch._subclasses.fake_tensor.FakeTensor", "type with foreach kernels"),
        Internal(
            "torch._subclasses.fake_tensor.FakeTensorMode",
            "tensors of a trace",
            ("allow_non_fake_inputs",),
        ),
        Internal(
            "torch._subclasses.fake_tensor.FakeTensorMode.__torch_dispatch__",
            "overridden: remembers results",
            ("func", "types", "args", "kwargs"),
        ),
        Internal(
            "torch._subclasses.fake_tensor.FakeTensorMode._cached_dispatch_impl",
            "what results may be remembered",
        ),
        Internal(
            "torch._subclasses.fake_tensor.in_kernel_invocation_manager",
            "a fake tensor made again",
            ("fake_mode",),
        ),
        Internal(
            "torch.testing._internal.distributed.fake_pg.FakeStore",
            "a group of ranks of which one exists",
        ),
        Internal(
            "torch.distributed.tensor._sharding_prop."
            "ShardingPropagator._propagate_tensor_meta_non_cached",
            "wrapped: sizes of tensors that are cut are found out by whole ones",
            ("op_schema",),
        ),
        Internal("torch.Tensor._make_subclass", "a fake tensor made again"),
        Internal("torch._C._set_throw_on_mutable_data_ptr", "a fake tensor made again"),
        Internal("torch._C._dispatch_has_kernel", "kernels of a simulated GPU"),
        Internal(
            "torch._C._dispatch_has_computed_kernel_for_dispatch_key", "kernels of a simulated GPU"
        ),
        Internal("torch._C._dispatch_has_kernel_for_dispatch_key", "kernels of a simulated GPU"),
        Internal(
            "torch._ops.OpOverload.__init__",
            "schema and name of an operator",
            mentions=("self._schema = ", "self._name = "),
        ),
        Internal("torch.library.get_kernel", "kernels of a simulated GPU", ("op", "dispatch_key")),
        Internal("torch._C.DispatchKey", "kernels of a simulated GPU with torch before 2.9"),
        Internal(
            "torch._ops.OpOverload.redispatch", "kernels of a simulated GPU with torch before 2.9"
        ),
        Internal("torch.UntypedStorage._cdata", "what identifies a storage"),
        Internal("torch.UntypedStorage._checkpoint_offset", "place of a tensor in its file"),
        Internal(
            "torch.nn.Module",
            "own parameters and buffers",
            mentions=("_parameters: dict", "_buffers: dict"),
        ),
        Internal(
            "torch.utils._foreach_utils._foreach_supported_types", "replaced: takes fake tensors"
        ),
        Internal("torch.optim.optimizer._foreach_supported_types", "replaced: takes fake tensors"),
        Internal("torch.distributions.Distribution._validate_args", "replaced: looks at no values"),
        Internal(
            "torch.optim.optimizer._get_foreach_kernels_supported_devices",
            "replaced: has CUDA's default",
            (),
        ),
        Internal(
            "torch.nn.functional.dropout",
            "replaced: keeps CUDA's mask",
            ("input", "p", "training", "inplace"),
        ),
        Internal(
            "torch.nn.functional.softmax",
            "replaced: is in fp32 under autocast",
            ("input", "dim", "_stacklevel", "dtype"),
        ),
        Internal(
            "torch.nn.functional.layer_norm",
            "replaced: is in fp32 under autocast",
            ("input", "normalized_shape", "weight", "bias", "eps"),
        ),
        Internal("torch.nn.functional.scaled_dot_product_attention", "replaced: CUDA's kernels"),
        Internal("torch.nn.functional.linear", "replaced by DeepSpeed's under ZeRO-3"),
        Internal("torch.nn.functional.softplus", "replaced: is in fp32 under autocast"),
        Internal("torch.pow", "replaced: is in fp32 under autocast"),
        Internal("torch.square", "replaced: is in fp32 under autocast"),
        Internal("torch.is_autocast_enabled", "replaced: CUDA's is off"),
        Internal("torch.native_dropout", "dropout with its mask"),
        Internal("torch.ops.aten.add.Tensor", "rule", ("self", "other", "alpha")),
        Internal("torch.ops.aten._to_copy.default", "rule", ("self", "dtype")),
        Internal("torch.ops.aten._foreach_norm.Scalar", "rule", ("self", "ord", "dtype")),
        Internal("torch.ops.aten.lift_fresh.default", "rule", ("self",)),
        Internal("torch.ops.aten._grouped_mm.default", "rule", ("self", "mat2", "offs")),
        Internal("torch.ops.aten.index.Tensor", "rule", ("self", "indices")),
        Internal("torch.ops.aten.index_put.default", "rule", ("self", "indices", "values")),
        Internal(
            "torch.ops.aten.native_layer_norm.default",
            "rule",
            ("input", "normalized_shape", "weight", "bias", "eps"),
        ),
        Internal("torch.ops.aten.masked_select.default", "rule", ("self", "mask")),
        Internal("torch.ops.aten._local_scalar_dense.default", "rule", ("self",)),
        Internal("torch.ops.aten._safe_softmax.default", "rule", ("self", "dim", "dtype")),
        Internal(
            "torch.ops.aten._softmax_backward_data.default",
            "rule",
            ("grad_output", "output", "dim", "input_dtype"),
        ),
        Internal(
            "torch.ops.aten._scaled_dot_product_efficient_attention.default",
            "CUDA's kernel for values of another width",
            ("query", "key", "value", "attn_bias", "compute_log_sumexp", "dropout_p", "is_causal"),
        ),
        Internal("torch.distributed.HashStore", "a group of one rank without a network"),
        Internal("torch.distributed.DistBackendError", "error of a lost peer, by name"),
        Internal("torch.distributed.DistNetworkError", "error of a lost peer, by name"),
        Internal("torch.distributed.DistStoreError", "error of a lost peer, by name"),
        Internal(
            "torch.distributed.elastic.multiprocessing.errors._FAILURE_FORMAT_TEMPLATE",
            "parsed: ranks and their exit codes",
            mentions=("  rank      : ${rank}", "  exitcode  : ${exitcode} "),
        ),
        Internal(
            "torch._logging._internal.TorchLogsFormatter.format",
            "parsed: elastic's first line",
            mentions=("{shortlevel}{record.asctime}",),
        ),
        Internal(
            "torch.distributed.elastic.rendezvous.dynamic_rendezvous.create_handler",
            "options by name, and their defaults",
            mentions=(
                '"keep_alive_interval", 5',
                '"keep_alive_max_attempt", 3',
                '"join"',
            ),
        ),
        Internal(
            "torch.distributed.elastic.rendezvous.c10d_rendezvous_backend._create_tcp_store",
            "option by name",
            mentions=('"is_host"',),
        ),
        Internal(
            "torch.distributed.elastic.rendezvous.dynamic_rendezvous"
            ".DynamicRendezvousHandler.use_agent_store",
            "variable by name",
            mentions=('"TORCH_DISABLE_SHARE_RDZV_TCP_STORE"',),
        ),
        Internal(
            "torch.load",
            "message of a file that holds more than tensors",
            mentions=("Weights only load failed",),
        ),
    ),
)

TRANSFORMERS = Library(
    "transformers",
    "5.23.0",
    (
        Internal(
            "transformers.Trainer._save_checkpoint",
            "overridden and called: whole checkpoints",
            ("model", "trial"),
        ),
        Internal(
            "transformers.Trainer._get_output_dir", "overridden: checkpoints' folder", ("trial",)
        ),
        Internal(
            "transformers.Trainer._load_from_checkpoint",
            "overridden: dtypes of a loaded adapter",
            ("resume_from_checkpoint", "model"),
        ),
        Internal(
            "transformers.Trainer._save",
            "overridden: no whole model where layers are cut",
            ("output_dir", "state_dict"),
        ),
        Internal(
            "transformers.Trainer._save_optimizer_and_scheduler",
            "overridden: parts of a model whose layers are cut",
            ("output_dir",),
            mentions=("SCHEDULER_NAME", "self.optimizer.state_dict()"),
        ),
        Internal(
            "transformers.Trainer._load_optimizer_and_scheduler",
            "overridden: the same",
            ("checkpoint",),
        ),
        Internal(
            "transformers.trainer.SCHEDULER_NAME",
            "mirrored: name of a checkpoint's file",
            mentions=("scheduler.pt",),
        ),
        Internal(
            "transformers.Trainer.__init__",
            "refuses checkpoints of a model that is cut unless they are of the model alone",
            mentions=("is_distributed_loading_by_transformers", "save_only_model"),
        ),
        Internal(
            "transformers.Trainer._mixed_mesh_grad_norm",
            "clips parts and whole gradients together",
            ("model", "max_norm"),
        ),
        Internal(
            "transformers.PreTrainedModel.maybe_distribute_model",
            "called: layers are cut without a load",
            ("model", "distributed_config", "mesh_manager"),
        ),
        Internal(
            "transformers.distributed.utils.TransformersDeviceMesh",
            "called: the ranks over which layers are cut",
            ("dense_mesh", "expert_mesh"),
        ),
        Internal(
            "transformers.distributed.tensor_parallel.ReplicatedWithGradAllReduce.install_forward",
            "replaced: gradients of norms of heads are summed as they come",
            ("module", "mesh"),
            mentions=("register_post_accumulate_grad_hook",),
        ),
        Internal(
            "transformers.modeling_utils.AttentionInterface.get_interface",
            "replaced: each rank drops weights of its own heads",
            ("attn_implementation", "default"),
        ),
        Internal(
            "transformers.PreTrainedModel._tp_plan",
            "replaced: adapters are cut where a rank has a part of an input or of an output",
        ),
        Internal(
            "transformers.distributed.tensor_parallel.RowwiseParallel.transform_inputs_pre_forward",
            "reads the whole width of an adapter's matrix",
            ("module", "args", "kwargs", "mesh"),
            mentions=("module.in_features",),
        ),
        Internal(
            "transformers.Trainer",
            "unlogged losses, read and restored",
            mentions=(
                "self._tr_loss = ",
                "self._total_loss_scalar = ",
                "self._globalstep_last_logged = ",
            ),
        ),
        Internal(
            "transformers.Trainer.compute_loss",
            "called past trl's: the standard loss",
            ("model", "inputs", "return_outputs", "num_items_in_batch"),
        ),
        Internal(
            "transformers.Trainer.create_optimizer",
            "overridden, and called on a trainer that is not initialized",
            ("model",),
            mentions=(
                "self.model",
                "self.args",
                "self.optimizer",
                "self.optimizer_cls_and_kwargs",
            ),
        ),
        Internal(
            "transformers.Trainer.get_optimizer_cls_and_kwargs",
            "class and settings for LoRA+",
            ("args", "model"),
        ),
        Internal(
            "transformers.Trainer.get_batch_samples",
            "overridden: time that training waits for data",
            ("epoch_iterator", "num_batches", "device"),
        ),
        Internal(
            "transformers.Trainer.training_step",
            "overridden: stages, tokens, finite losses",
            ("model", "inputs", "num_items_in_batch"),
        ),
        Internal(
            "transformers.Trainer.prediction_step",
            "overridden: the stage of an evaluation",
            ("model", "inputs", "prediction_loss_only", "ignore_keys"),
        ),
        Internal(
            "transformers.Trainer.evaluate",
            "overridden: its time is no step's",
            ("eval_dataset", "ignore_keys", "metric_key_prefix"),
        ),
        Internal("transformers.Trainer.log", "overridden: speed", ("logs", "start_time")),
        Internal(
            "transformers.Trainer.compute_loss_context_manager", "autocast of generated answers", ()
        ),
        Internal("transformers.PreTrainedModel._can_set_experts_implementation", "called", ()),
        Internal(
            "transformers.PreTrainedModel.set_experts_implementation",
            "called",
            ("experts_implementation",),
        ),
        Internal("transformers.PreTrainedModel._supports_sdpa", "attention of a traced model"),
        Internal(
            "transformers.modeling_utils.save_on_cpu",
            "offloaded activations of a trace",
            ("pin_memory", "device_type"),
        ),
        Internal("transformers.PreTrainedModel._no_split_modules", "layers that FSDP shards"),
        Internal("transformers.PreTrainedModel._keep_in_fp32_modules", "modules not quantized"),
        Internal("transformers.PreTrainedModel._keep_in_fp32_modules_strict", "routers in fp32"),
        Internal(
            "transformers.PreTrainedModel.gradient_checkpointing_enable",
            "checkpoints of some layers",
            ("gradient_checkpointing_kwargs",),
        ),
        Internal(
            "transformers.quantizers.base._assign_is_quantized",
            "what classes ask about their packed matrices",
            ("model",),
        ),
        Internal(
            "transformers.quantizers.base.get_keys_to_not_convert",
            "modules not quantized",
            ("model",),
        ),
        Internal(
            "transformers.quantizers.quantizers_utils.should_convert_module",
            "modules not quantized",
            ("full_name", "patterns"),
        ),
        Internal(
            "transformers.integrations.bitsandbytes.replace_with_bnb_linear",
            "mirrored: types of the modules that are quantized",
            mentions=("isinstance(module, Conv1D) or type(module) is nn.Linear",),
        ),
        Internal(
            "transformers.quantizers.quantizer_bnb_4bit.Bnb4BitHfQuantizer.param_needs_quantization",
            "replaced: tensors of all experts are packed, too",
            ("model", "param_name"),
        ),
        Internal(
            "transformers.quantizers.quantizer_bnb_4bit.Bnb4BitHfQuantizer.get_quantize_ops",
            "replaced: tensors of all experts are packed, too",
            (),
        ),
        Internal(
            "transformers.integrations.bitsandbytes.Bnb4bitQuantize.convert",
            "overridden: tensors of all experts are packed, too",
            ("input_dict", "model"),
        ),
        Internal(
            "transformers.quantizers.quantizers_utils.get_module_from_name",
            "module of a parameter that is loaded",
            ("module", "tensor_name"),
        ),
        Internal(
            "transformers.integrations.moe.use_experts_implementation",
            "mirrored: modules that hold one tensor for all experts",
            mentions=("self._is_expert_parallel = False",),
        ),
        Internal(
            "transformers.integrations.moe._grouped_mm",
            "how a product is called with experts in 4 bit",
            mentions=(
                "torch.nn.functional.grouped_mm(input.to(weight.dtype), weight, offs=offs)",
                "grouped_mm_fallback(input.to(weight.dtype), weight, offs=offs)",
            ),
        ),
        Internal(
            "transformers.conversion_mapping.get_model_conversion_mapping",
            "parameters that a load joins",
            ("model",),
        ),
        Internal(
            "transformers.core_model_loading.WeightConverter",
            "parameters that a load joins",
            ("source_patterns", "target_patterns", "operations"),
        ),
        Internal(
            "transformers.core_model_loading.WeightConverter.add_tensor",
            "tensors that are joined for a merged model",
            ("target_key", "source_key", "source_pattern", "future"),
        ),
        Internal(
            "transformers.core_model_loading.WeightConverter.convert",
            "tensors that are joined for a merged model",
            ("layer_name", "model", "config"),
        ),
        Internal(
            "transformers.core_model_loading.WeightRenaming",
            "names of tensors that are joined for a merged model",
            ("source_patterns", "target_patterns"),
        ),
        Internal(
            "transformers.core_model_loading.rename_source_key",
            "names of tensors that are joined for a merged model",
            (
                "source_key",
                "weight_renamings",
                "weight_converters",
                "base_model_prefix",
                "meta_state_dict",
            ),
        ),
        Internal(
            "transformers.core_model_loading.revert_weight_conversion",
            "tensors that were joined for a merged model, as they are stored",
            ("model", "state_dict"),
        ),
        Internal(
            "transformers.core_model_loading.dot_natural_key",
            "the order in which weights are loaded",
            ("s",),
        ),
        Internal("transformers.core_model_loading.MergeModulelist", "parameters that a load joins"),
        Internal(
            "transformers.masking_utils.find_packed_sequence_indices",
            "replaced: a fake batch is not packed",
            ("position_ids",),
        ),
        Internal("transformers.pytorch_utils.Conv1D", "GPT-2's transposed matrices", ("nf", "nx")),
        Internal(
            "transformers.utils.SAFE_WEIGHTS_NAME",
            "mirrored: name of a checkpoint's file",
            mentions=("model.safetensors",),
        ),
        Internal(
            "transformers.utils.SAFE_WEIGHTS_INDEX_NAME",
            "mirrored: name of a checkpoint's index",
            mentions=("model.safetensors.index.json",),
        ),
    ),
)

TRL = Library(
    "trl",
    "1.16.0",
    (
        Internal(
            "trl.SFTTrainer._save_checkpoint",
            "passed over: writes a model card",
            ("model", "trial"),
            mentions=("create_model_card",),
        ),
        Internal(
            "trl.SFTTrainer.compute_loss",
            "called: the fused loss",
            ("model", "inputs", "return_outputs", "num_items_in_batch"),
        ),
        Internal(
            "trl.SFTTrainer.__init__",
            "outputs of the fused head",
            mentions=('outputs=("log_probs", "entropy", "is_top1")',),
        ),
        Internal(
            "trl.trainer.sft_trainer.DataCollatorForLanguageModeling",
            "base of the collator of packed rows",
            ("pad_token_id", "return_position_ids"),
        ),
        Internal(
            "trl.trainer.sft_trainer.DataCollatorForLanguageModeling.torch_call",
            "overridden: positions in the place of a mask",
            ("examples",),
        ),
        Internal(
            "trl.trainer.utils.add_fused_lm_head", "called: the fused head", ("model", "outputs")
        ),
        Internal("trl.trainer.utils._use_triton", "replaced: yes", ("device",)),
        Internal("trl.kernels.chunked_logprob._forward_tile", "replaced: allocates nothing"),
        Internal("trl.kernels.chunked_logprob._backward_tile", "replaced: allocates nothing"),
        Internal(
            "trl.kernels.chunked_logprob._addmm_fp32",
            "replaced: allocates nothing",
            ("acc", "a", "b"),
        ),
        Internal(
            "trl.pack_dataset",
            "rows of packed samples",
            ("dataset", "seq_length", "strategy", "map_kwargs"),
        ),
    ),
)

PEFT = Library(
    "peft",
    "0.21.2",
    (
        Internal(
            "peft.tuners.lora.dora.dequantize_module_weight",
            "replaced: knows packed fake weights",
            ("module",),
        ),
        Internal(
            "peft.utils.integrations.dequantize_module_weight", "called by the above", ("module",)
        ),
        Internal(
            "peft.tuners.lora.model.add_lora_tp_hooks_dtensor",
            "makes adapters as wide as a rank's part of their matrix",
            ("tp_module", "tp_plan_name", "device_mesh", "base_layer", "module_name"),
        ),
        Internal(
            "peft.tuners.lora.layer.LoraLayer.reset_lora_parameters",
            "mirrored: first values of an adapter",
            mentions=("kaiming_uniform_", "math.sqrt(5)"),
        ),
        Internal(
            "peft.tuners.lora.model.LoraModel._create_and_replace",
            "reads how a model is marked as packed",
            mentions=('"is_loaded_in_4bit"', '"is_loaded_in_8bit"'),
        ),
        Internal(
            "peft.utils.transformers_weight_conversion._MODEL_TO_CONVERSION_PATTERN",
            "read: architectures whose expert matrices peft renames",
        ),
        Internal(
            "peft.utils.transformers_weight_conversion._MOE_TARGET_MODULE_MAPPING",
            "read: names that peft takes for fused experts",
        ),
        Internal(
            "peft.tuners.tuners_utils._check_lora_target_modules_mamba",
            "called: names that peft refuses",
            ("peft_config", "model", "target_name"),
        ),
        Internal(
            "peft.tuners.lora.layer.ParamWrapper.forward",
            "overridden: adapters of experts are multiplied by rows",
            ("x",),
        ),
        Internal(
            "peft.tuners.lora.layer.ParamWrapper.get_delta_factors",
            "mirrored: which rows of A and columns of B are an expert's",
            ("adapter_name",),
            mentions=("weight_A.reshape(self.num_experts, -1, ", ".permute(2, 0, 1)"),
        ),
        Internal(
            "peft.tuners.lora.layer.ParamWrapper._get_in_out_features",
            "given the shape of packed experts",
            mentions=('"ds_shape"',),
        ),
        Internal(
            "peft.tuners.tuners_utils.BaseTuner._inject_parameters",
            "order of wrappers: the first of a module's parameters inside",
            mentions=("module.named_parameters(recurse=False)",),
        ),
        Internal(
            "peft.optimizers.create_loraplus_optimizer",
            "optimizer of LoRA+",
            ("model", "optimizer_cls", "lr", "loraplus_lr_ratio"),
        ),
        Internal(
            "peft.utils.constants.CONFIG_NAME",
            "mirrored: name of an adapter's file",
            mentions=("adapter_config.json",),
        ),
        Internal(
            "peft.utils.constants.SAFETENSORS_WEIGHTS_NAME",
            "mirrored: name of an adapter's file",
            mentions=("adapter_model.safetensors",),
        ),
    ),
)

BITSANDBYTES = Library(
    "bitsandbytes",
    "0.50.2",
    (
        Internal(
            "bitsandbytes.autograd._functions.MatMul8bitLt.forward",
            "called: the int8 product on CUDA",
            ("ctx", "A", "B", "out", "bias", "state"),
        ),
        Internal(
            "bitsandbytes.matmul",
            "replaced: the int8 product on CUDA",
            ("A", "B", "out", "state", "threshold", "bias"),
        ),
        Internal(
            "bitsandbytes.optim.optimizer.GlobalOptimManager._instance", "replaced: begins anew"
        ),
        Internal(
            "bitsandbytes.optim.optimizer.Optimizer8bit.get_state_buffer",
            "replaced: paged states without storage",
            ("p", "dtype"),
            mentions=("is_paged", "1e5"),
        ),
        Internal(
            "bitsandbytes.optim.AdEMAMix._get_state_double_buffer",
            "replaced: paged states without storage",
            ("p", "dtype"),
            mentions=("is_paged", "1e5"),
        ),
        Internal(
            "bitsandbytes.functional.prefetch_tensor",
            "replaced: there is nothing to fetch",
            ("A", "to_cpu"),
        ),
        Internal("bitsandbytes.functional.name2qmap", "filled before a trace"),
        Internal("bitsandbytes.functional.create_dynamic_map", "fills the above"),
        Internal(
            "bitsandbytes.functional.quantize_4bit",
            "packs weights",
            ("A", "blocksize", "compress_statistics", "quant_type"),
            mentions=("blocksize=256",),
        ),
        Internal(
            "bitsandbytes.functional.dequantize_4bit", "makes weights whole", ("A", "quant_state")
        ),
        Internal("bitsandbytes.functional.int8_vectorwise_quant", "packs weights", ("A",)),
        Internal(
            "bitsandbytes.functional.int8_vectorwise_dequant",
            "makes weights whole",
            ("A", "stats"),
        ),
        Internal(
            "bitsandbytes.functional.QuantState",
            "what a packed matrix keeps",
            ("absmax", "shape", "code", "blocksize", "quant_type", "dtype", "offset", "state2"),
        ),
        Internal(
            "bitsandbytes.MatmulLtState",
            "what an int8 matrix keeps",
            mentions=("CB:", "SCB:", "threshold", "has_fp16_weights"),
        ),
        Internal(
            "bitsandbytes.nn.Linear4bit.forward",
            "runs on a layer that its own __init__ has not made",
            ("x",),
            mentions=("compute_type_is_set", "compute_dtype", "quant_state", "self.bias"),
        ),
        Internal(
            "bitsandbytes.nn.Linear8bitLt.forward",
            "runs on a layer that its own __init__ has not made",
            ("x",),
            mentions=("self.state", "self.weight.CB", "self.bias"),
        ),
        Internal(
            "bitsandbytes.nn.Params4bit",
            "mirrored: elements that share a scale",
            mentions=("blocksize = 64",),
        ),
        Internal(
            "torch.ops.bitsandbytes.gemm_4bit.default",
            "rule",
            (
                *("A", "B", "shapeB", "absmax", "blocksize", "quant_type", "bias"),
                *("absmax_8bit", "absmax_code", "absmax_offset"),
            ),
        ),
        Internal(
            "torch.ops.bitsandbytes.dequantize_4bit.default",
            "rule, and called",
            ("A", "absmax", "blocksize", "quant_type", "shape", "dtype"),
        ),
        Internal(
            "torch.ops.bitsandbytes.dequantize_blockwise.default",
            "rule, and called",
            ("A", "absmax", "code", "blocksize", "dtype"),
        ),
        Internal(
            "torch.ops.bitsandbytes.int8_vectorwise_quant.default", "rule", ("A", "threshold")
        ),
        Internal(
            "torch.ops.bitsandbytes.int8_mixed_scaled_mm.default",
            "rule",
            ("A", "CA", "CB", "SCA", "SCB"),
        ),
        Internal("torch.ops.bitsandbytes.int8_linear_matmul.default", "called", ("A", "B")),
    ),
)

DEEPSPEED = Library(
    "deepspeed",
    "0.19.8",
    (
        Internal(
            "deepspeed.ops.__compatible_ops__",
            "changed: no collectives are compiled",
            mentions=("deepspeed_shm_comm",),
        ),
        Internal(
            "deepspeed.runtime.engine.DeepSpeedEngine._zero3_consolidated_16bit_state_dict",
            "called: the result under ZeRO-3",
            ("exclude_frozen_parameters",),
        ),
        Internal(
            "deepspeed.runtime.engine.DeepSpeedEngine",
            "optimizer inside the engine's own",
            mentions=("self.basic_optimizer = ",),
        ),
        Internal(
            "deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine.TorchCheckpointEngine.load",
            "asks for any pickle, which is forbidden",
            mentions=("torch.load(path, map_location=map_location, weights_only=False)",),
        ),
        Internal(
            "deepspeed.runtime.fp16.loss_scaler.LossScaler", "allowed in a checkpoint, by its name"
        ),
        Internal(
            "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler",
            "allowed in a checkpoint, by its name",
        ),
        Internal(
            "deepspeed.runtime.zero.config.ZeroStageEnum", "allowed in a checkpoint, by its name"
        ),
        Internal(
            "deepspeed.utils.tensor_fragment.fragment_address",
            "allowed in a checkpoint, by its name",
        ),
        Internal(
            "deepspeed.runtime.zero.linear.zero3_linear_wrap",
            "called: linear layers under ZeRO-3",
            ("input", "weight", "bias"),
        ),
        Internal("deepspeed.zero.Init", "shards a model", ("module", "config_dict_or_path")),
        Internal(
            "deepspeed.runtime.zero.partition_parameters",
            "size of a sharded parameter",
            mentions=("param.ds_numel = ",),
        ),
        Internal(
            "deepspeed.runtime.zero.stage_1_and_2.DeepSpeedZeroOptimizer", "class by its name"
        ),
        Internal(
            "deepspeed.runtime.zero.stage3.DeepSpeedZeroOptimizer_Stage3", "class by its name"
        ),
        Internal(
            "deepspeed.runtime.sequence_parallel.parallel_state_sp.initialize_sequence_parallel",
            "called: groups of ranks that share a sequence",
            ("sequence_parallel_size",),
        ),
        Internal(
            "deepspeed.utils.groups._get_sequence_data_parallel_group",
            "set: where the engine looks for these groups",
            (),
            ("mpu.get_sequence_data_parallel_group()",),
        ),
        Internal(
            "deepspeed.runtime.zero.stage_1_and_2.DeepSpeedZeroOptimizer.average_tensor",
            "relied on: gradients are averaged over groups that share a sequence",
            mentions=("/ float(self.sequence_parallel_size)",),
        ),
        Internal(
            "deepspeed.runtime.comm.coalesced_collectives",
            "relied on: gradients are averaged over all ranks",
            mentions=("tensor_partition_flat_buffer.div_(world_sz)",),
        ),
        Internal("deepspeed.utils.groups._get_sequence_parallel_group", "called", ()),
        Internal("deepspeed.utils.groups._get_sequence_parallel_world_size", "called", ()),
        Internal(
            "deepspeed.runtime.sequence_parallel.ulysses_sp.UlyssesSPAttentionHF.__init__",
            "called: attention of ranks that share a sequence",
            (
                "attn",
                "batch_size",
                "attn_head_count",
                "attn_head_size",
                "kv_head_count",
                "num_hidden_layers",
                "process_group",
                "seq_length_is_variable",
            ),
        ),
    ),
)

ACCELERATE = Library(
    "accelerate",
    "1.15.0",
    (
        Internal(
            "accelerate.utils.convert_outputs_to_fp32",
            "called: outputs under autocast",
            ("model_forward",),
        ),
        Internal(
            "accelerate.state.AcceleratorState.__init__",
            "wrapped: FSDP on the CPU",
            mentions=("fsdp_plugin", "DistributedType.MULTI_GPU"),
        ),
        Internal(
            "accelerate.parallelism_config.ParallelismConfig._validate_accelerator",
            "replaced: layers that are cut on the CPU",
            ("accelerator",),
            mentions=("accelerator.multi_device",),
        ),
        Internal(
            "accelerate.optimizer.AcceleratedOptimizer",
            "optimizer inside it",
            mentions=("self.optimizer = ",),
        ),
        Internal(
            "accelerate.Accelerator",
            "scaler of gradients",
            mentions=("self.scaler = ",),
        ),
        Internal(
            "accelerate.utils.environment.check_cuda_p2p_ib_support",
            "mirrored: cards without peer access",
            mentions=('"RTX 40"', '"550.40.07"'),
        ),
        Internal(
            "accelerate.state.PartialState.__init__",
            "mirrored: variables that it asks for there",
            mentions=('"NCCL_P2P_DISABLE"', '"NCCL_IB_DISABLE"'),
        ),
        Internal(
            "accelerate.accelerator.prepare_data_loader",
            "wrapped: ranks that read the same samples",
            ("dataloader", "num_processes", "process_index"),
        ),
        Internal(
            "accelerate.Accelerator.gather_for_metrics",
            "mirrored: what is left out of an evaluation's last batch",
            mentions=("self.gradient_state.end_of_dataloader", "self.gradient_state.remainder"),
        ),
        Internal(
            "accelerate.state.AcceleratorState.__init__",
            "prefix of the variables that would overrule a plan",
            mentions=('"ACCELERATE_USE_CPU"',),
        ),
    ),
)

DATASETS = Library(
    "datasets",
    "5.2.0",
    (
        Internal("datasets.Dataset.from_file", "maps a table into memory", ("filename",)),
        Internal(
            "datasets.Dataset.cache_files",
            "files of a fetched data set",
            mentions=('"filename"',),
        ),
    ),
)

LIBRARIES = (TORCH, TRANSFORMERS, TRL, PEFT, BITSANDBYTES, DEEPSPEED, ACCELERATE, DATASETS)
