"""Models of transformers: the loss, gradients and scores of stock, without the logits."""

from __future__ import annotations

import copy
import inspect
import math
import pathlib
import pickle

import numpy as np
import pytest

torch = pytest.importorskip("torch", minversion="2.13")

import peft  # noqa: E402
import tokenizers  # noqa: E402
import transformers  # noqa: E402
from accelerate import Accelerator  # noqa: E402
from accelerate.state import AcceleratorState  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from logitless.transformers import (  # noqa: E402
    _check,
    _deferred,
    _patch,
    _scoring,
    loglikelihood,
    patch,
    perplexity,
    unpatch,
)

N = 64  # classes
GLOO = torch.distributed.is_available() and torch.distributed.is_gloo_available()
TINY = {
    "vocab_size": N, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "intermediate_size": 32, "max_position_embeddings": 64,
    "initializer_range": 0.3, "pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3,
}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2,
      "decoder_start_token_id": 1}
BART = {"d_model": 16, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "encoder_attention_heads": 2,
        "decoder_attention_heads": 2, "encoder_layers": 1, "decoder_layers": 1}
HEAD_DIM = {"head_dim": 8}
GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2}

# What makes the head of each another: nothing unless it is said.
FAMILIES = {
    "Llama": {},
    "Mistral": {},
    "Qwen2": {"tie_word_embeddings": True},
    "Qwen3": HEAD_DIM,
    "Gemma": HEAD_DIM,
    "Gemma2": {**HEAD_DIM, "final_logit_softcapping": 2.0},
    "Gemma3": HEAD_DIM,
    "GPT2LMHeadModel": GPT2,
    "GPT2DoubleHeadsModel": GPT2,  # the other is not asked
    "GPTNeoX": {},
    "OPT": {"word_embed_proj_dim": 8, "ffn_dim": 32},  # features of another size
    "Phi": {},  # a bias
    "Falcon": {},
    "Cohere": {"logit_scale": 0.25},
    "Granite": {"logits_scaling": 3.0},
    "Olmo2": {},
    "StableLm": {},
    "Mixtral": {"num_local_experts": 2},
    "MiniCPM3": {"dim_model_base": 8},  # scales features
    "BertForMaskedLM": {},  # a layer before it, and a bias
    "RobertaForMaskedLM": {},
    "T5ForConditionalGeneration": T5,
    "BartForConditionalGeneration": BART,  # a bias apart from the layer
}
# peft asks for it.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


def model_of(family, **options):
    """A model of a family with random weights, the same each time."""
    torch.manual_seed(0)
    name = family if hasattr(transformers, family) else f"{family}ForCausalLM"
    cls = getattr(transformers, name)
    config = cls.config_class(**{**TINY, **FAMILIES.get(family, {}), **options})
    return cls(config).eval()


def batch(gen, samples=2, tokens=9):
    """Token ids, the last of a sample padding, and labels of which some do not count."""
    ids = torch.randint(4, N, (samples, tokens), generator=gen)
    mask = torch.ones_like(ids)
    ids[0, -2:], mask[0, -2:] = 1, 0
    labels = ids.clone()
    labels[:, :2], labels[0, -2:] = -100, -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


@pytest.fixture(autouse=True)
def no_accelerator():
    """accelerate remembers the precision of a process."""
    yield
    AcceleratorState._reset_state(True)


def loss_and_gradients(model, inputs):
    model.zero_grad()
    output = model(**inputs)
    output.loss.backward()
    return output, {name: parameter.grad.clone() for name, parameter in model.named_parameters()
                    if parameter.grad is not None}


def assert_close(one, other, tol=2e-6):
    assert one.dtype == other.dtype
    assert (one - other).abs().max() <= tol * max(1.0, other.abs().max().item())


def assert_same(ours, theirs, tol=2e-6):
    """Loss and all gradients, and no logits."""
    (one, gradients), (other, others) = ours, theirs
    assert "logits" not in one
    assert other.logits is not None
    assert_close(one.loss, other.loss, tol)
    assert gradients.keys() == others.keys()
    for name, gradient in gradients.items():
        assert_close(gradient, others[name], tol)


# Families


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradients_are_those_of_stock(gen, family):
    model, inputs = model_of(family), batch(gen)
    theirs = loss_and_gradients(model, inputs)
    assert patch(model) is model
    assert_same(loss_and_gradients(model, inputs), theirs)


@pytest.mark.parametrize("family", ["Llama", "BertForMaskedLM", "T5ForConditionalGeneration"])
def test_without_labels_nothing_changes(gen, family):
    model, inputs = model_of(family), batch(gen)
    if family.startswith("T5"):
        inputs["decoder_input_ids"] = inputs["labels"].clamp_min(0)
    del inputs["labels"]
    theirs, ours = model(**inputs), patch(model)(**inputs)
    assert list(ours) == list(theirs)
    assert torch.equal(ours.logits, theirs.logits)


@pytest.mark.parametrize(("family", "name"), [("Gemma2", "final_logit_softcapping"),
                                             ("Cohere", "logit_scale"),
                                             ("Granite", "logits_scaling")])
def test_scales_and_caps_tell(gen, family, name):
    """Families whose logits are scaled would have another loss without."""
    inputs = batch(gen)
    losses = [model_of(family, **{name: value})(**inputs).loss for value in (0.5, 50.0)]
    assert abs(losses[0] - losses[1]) > 0.01


def test_losses_of_routers_are_added(gen):
    model = model_of("Mixtral", output_router_logits=True, router_aux_loss_coef=0.5)
    inputs = batch(gen)
    theirs = loss_and_gradients(model, inputs)
    assert theirs[0].aux_loss > 1
    ours = loss_and_gradients(patch(model), inputs)
    assert_same(ours, theirs)
    assert torch.equal(ours[0].aux_loss, theirs[0].aux_loss)


def test_logits_are_nowhere(gen):
    class Largest(TorchDispatchMode):
        numbers = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            for tensor in result if isinstance(result, (tuple, list)) else [result]:
                if isinstance(tensor, torch.Tensor):
                    self.numbers = max(self.numbers, tensor.numel())
            return result

    n, tokens = 1000, 50
    model, ids = model_of("Llama", vocab_size=n), torch.randint(n, (1, tokens), generator=gen)
    sizes = []
    for change in (unpatch, patch):
        change(model)
        with Largest() as largest:
            model(input_ids=ids, labels=ids).loss.backward()
        sizes.append(largest.numbers)
    assert sizes == [n * tokens, n * 16]


# What a call may say


@pytest.mark.parametrize("more", [
    {"num_items_in_batch": 5},
    {"num_items_in_batch": torch.tensor(7)},
    {"shift_labels": torch.arange(18).view(2, 9)},
    {"ignore_index": 9, "shift_labels": torch.arange(18).view(2, 9)},
    {"output_hidden_states": True, "output_attentions": True},
    {"use_cache": False},
    {"logits_to_keep": 9},
], ids=lambda more: "+".join(more))
def test_arguments_of_the_loss(gen, more):
    model, inputs = model_of("Llama", attn_implementation="eager"), {**batch(gen), **more}
    theirs = loss_and_gradients(model, inputs)
    ours = loss_and_gradients(patch(model), inputs)
    assert_same(ours, theirs)
    assert list(ours[0]) == [name for name in theirs[0] if name != "logits"]


def test_labels_by_place_and_outputs_as_tuples(gen):
    model, inputs = model_of("GPT2LMHeadModel"), batch(gen)
    names = list(inspect.signature(model.forward).parameters)
    before = [inputs.get(name) for name in names[:names.index("labels") + 1]]
    loss, logits, *rest = model(*before, return_dict=False)
    assert logits.shape == (2, 9, N)
    patched_loss, *patched_rest = patch(model)(*before, return_dict=False)
    assert_close(patched_loss, loss)
    assert list(map(type, patched_rest)) == list(map(type, rest))


def test_a_loss_of_the_users_own(gen):
    """What `loss_function` does to logits counts, also if it is not what stock does."""
    def summed(logits, labels, vocab_size, **kwargs):
        logits, labels = logits[..., :-1, :].contiguous(), labels[..., 1:].contiguous()
        return F.cross_entropy(logits.reshape((-1, vocab_size)) / 2, labels.flatten(),
                               reduction="sum", label_smoothing=0.1)

    def of_rows_that_count(logits, labels, **kwargs):
        count = labels[:, 1:] != -100
        return F.cross_entropy(logits[:, :-1][count].contiguous(), labels[:, 1:][count])

    for loss_function in (summed, of_rows_that_count):
        model, inputs = model_of("Llama"), batch(gen)
        model.loss_function = loss_function
        theirs = loss_and_gradients(model, inputs)
        assert_same(loss_and_gradients(patch(model), inputs), theirs)


@pytest.mark.parametrize("items", [None, 0, torch.tensor(0)], ids=str)
def test_labels_of_which_none_counts_do_no_harm(gen, items):
    """The loss is NaN, and gradients are 0, so that the parameters stay what they are."""
    inputs = batch(gen)
    inputs |= {"labels": torch.full_like(inputs["labels"], -100), "num_items_in_batch": items}
    theirs = loss_and_gradients(model_of("Llama"), inputs)
    ours = loss_and_gradients(patch(model_of("Llama")), inputs)
    assert ours[0].loss.isnan()
    assert theirs[0].loss.isnan()
    assert ours[1].keys() == theirs[1].keys()
    assert not any(gradient.any() for gradient in (*ours[1].values(), *theirs[1].values()))


def test_train_only(gen):
    model, inputs = patch(model_of("Llama"), train_only=True), batch(gen)
    assert model(**inputs).logits.shape == (2, 9, N)
    assert model.train()(**inputs).logits is None
    assert patch(model).eval()(**inputs).logits is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_models_of_16_bits_have_a_float32_loss(gen, dtype):
    model, inputs = model_of("Llama").to(dtype), batch(gen)
    exact = copy.deepcopy(model).double()
    exact.loss_function = lambda logits, labels, **_: F.cross_entropy(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    theirs = loss_and_gradients(model, inputs)
    ours = loss_and_gradients(patch(model), inputs)
    assert ours[0].loss.dtype == torch.float32
    assert_same(ours, theirs, tol=20 * torch.finfo(dtype).eps)
    hidden = model.model(inputs["input_ids"], inputs["attention_mask"]).last_hidden_state
    truth = exact.loss_function(hidden.double() @ exact.lm_head.weight.T, inputs["labels"])
    assert abs(ours[0].loss - truth) < 2e-6 * truth


def test_models_of_float64_have_the_float32_loss_of_stock(gen):
    model, inputs = model_of("Llama").double(), batch(gen)
    theirs = loss_and_gradients(model, inputs)
    assert theirs[0].loss.dtype == torch.float32
    assert_same(loss_and_gradients(patch(model), inputs), theirs)


# As before


def test_unpatch_restores_the_class(gen):
    model, inputs = model_of("Llama"), batch(gen)
    theirs = model(**inputs)
    assert str(type(patch(model))) == str(transformers.LlamaForCausalLM)
    assert unpatch(model) is model
    assert type(model) is transformers.LlamaForCausalLM
    assert "forward" not in vars(model)
    assert torch.equal(model(**inputs).loss, theirs.loss)
    assert unpatch(model) is model


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy,
                                    lambda model: pickle.loads(pickle.dumps(model)),
                                    lambda model: pickle.loads(pickle.dumps(model, 0))])
def test_copies_are_patched_and_apart(gen, copied):
    model, inputs = patch(model_of("Llama")), batch(gen)
    other = copied(model)
    assert torch.equal(other(**inputs).loss, model(**inputs).loss)
    assert other(**inputs).logits is None
    assert type(unpatch(other)) is transformers.LlamaForCausalLM
    assert other(**inputs).logits is not None
    assert model(**inputs).logits is None


def test_saved_models_are_stock(gen, tmp_path):
    patch(model_of("Llama")).save_pretrained(tmp_path)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert model.config.architectures == ["LlamaForCausalLM"]
    assert type(model) is transformers.LlamaForCausalLM


@pytest.mark.parametrize("make", [lambda: model_of("Llama"), lambda: of_class(Noisy)])
def test_patching_changes_nothing_else(make):
    model = make().eval()
    model.model.train()
    model.lm_head.weight.requires_grad_(False)
    kept = torch.get_rng_state(), [module.training for module in model.modules()], str(vars(model))
    numbers = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        patch(model)
    assert torch.equal(torch.get_rng_state(), kept[0])
    assert [module.training for module in model.modules()] == kept[1]
    assert str(vars(model)) == kept[2]
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), numbers.values(),
                                                 strict=True))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_head_may_change_after_the_patch(gen):
    model, inputs = patch(model_of("Llama", tie_word_embeddings=True)), batch(gen)
    model.resize_token_embeddings(N + 6, mean_resizing=False)
    ours = loss_and_gradients(model, inputs)
    assert len(ours[1]["model.embed_tokens.weight"]) == N + 6
    assert_same(ours, loss_and_gradients(unpatch(model), inputs))


def test_generation_is_that_of_stock(gen):
    model, ids = model_of("Llama"), batch(gen)["input_ids"][1:]
    options = {"max_new_tokens": 5, "do_sample": False}
    theirs = model.generate(ids, **options)
    assert torch.equal(patch(model).generate(ids, **options), theirs)


# Refusals


class Own(transformers.LlamaForCausalLM):
    """A model that makes something else of its features."""

    def forward(self, input_ids, labels=None, **kwargs):
        logits, loss = self.logits(self.model(input_ids).last_hidden_state), None
        if labels is not None:
            loss = self.loss_function(logits, labels, self.config.vocab_size)
        return transformers.modeling_outputs.CausalLMOutput(loss=loss, logits=logits)


class Scaled(Own):
    """Logits with a scale that is learned."""

    def __init__(self, config):
        super().__init__(config)
        self.scale = torch.nn.Parameter(torch.tensor(2.0))

    def logits(self, x):
        return self.scale * self.lm_head(x)


class Lifted(Own):
    """Logits of a product that is no layer of its own."""

    def logits(self, x):
        return x @ self.lm_head.weight.T


class Noisy(Own):
    """Logits that are drawn, in evaluation too."""

    def logits(self, x):
        return self.lm_head(F.dropout(x, 0.1, training=True))


class Masked(Own):
    """Logits of which some are ruled out."""

    def logits(self, x):
        return self.lm_head(x).masked_fill(torch.arange(N) == 3, -1e9)


def of_class(cls, config=TINY):
    return cls(cls.config_class(**config))


def with_lora(*layers, **options):
    config = peft.LoraConfig(r=2, target_modules=list(layers), **options)
    return peft.get_peft_model(model_of("Llama"), config)


def on_meta():
    with torch.device("meta"):
        return of_class(transformers.LlamaForCausalLM)


def sequence_of_layers():
    model = model_of("Llama")
    model.lm_head = torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.Linear(16, N))
    model.lm_head.weight = model.lm_head[1].weight
    return model


class Quantized(torch.nn.Module):
    """As those of PyTorch: the weights are asked for by a call."""

    def weight(self):
        return None


def quantized():
    model = model_of("Llama")
    model.lm_head = Quantized()
    return model


REFUSED = {
    "learned scale": (lambda: of_class(Scaled), r"Scaled cannot .* \* Parameter"),
    "no layer": (lambda: of_class(Lifted), "Lifted cannot .* not those of one linear layer"),
    "classes ruled out": (lambda: of_class(Masked), "Masked cannot .* masked_fill"),
    "LoRA on the head": (lambda: with_lora("lm_head"),
                         "LlamaForCausalLM cannot .* LoRA on the head"),
    "two layers": (sequence_of_layers, "LlamaForCausalLM cannot .* more than one linear layer"),
    "quantized": (quantized, "LlamaForCausalLM cannot .* no weights as a tensor"),
    "no memory": (on_meta, "LlamaForCausalLM must be on the CPU.*is on meta"),
    "no loss": (lambda: of_class(transformers.LlamaModel), "LlamaModel has no loss"),
    "no logits of that name": (lambda: of_class(transformers.BertForPreTraining),
                               "BertForPreTraining cannot .* its output has no `logits`"),
    "no head": (lambda: of_class(transformers.LlamaForSequenceClassification),
                "LlamaForSequenceClassification has no head"),
    "wrapped by accelerate": (
        lambda: Accelerator(cpu=True, mixed_precision="bf16").prepare(model_of("Llama")),
        "`forward` of this LlamaForCausalLM has been replaced"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_is_left_as_it_was(case):
    make, message = REFUSED[case]
    model = make()
    before = type(model)
    with pytest.raises(ValueError, match=message):
        patch(model)
    assert type(model) is before


@pytest.mark.parametrize("call", [patch, unpatch])
@pytest.mark.parametrize("make", [lambda: torch.nn.Linear(2, 2),
                                  lambda: torch.compile(model_of("Llama"), backend="eager")])
def test_only_models_of_transformers(call, make):
    model = make()
    with pytest.raises(TypeError, match=f"PreTrainedModel.*got {type(model).__name__}"):
        call(model)


def test_another_loss_is_refused(monkeypatch):
    monkeypatch.setattr(_deferred.DeferredLogits, "softcap", None)
    with pytest.raises(ValueError, match="Gemma2ForCausalLM has another loss without its logits"):
        patch(model_of("Gemma2"))


def test_another_gradient_is_refused(monkeypatch):
    def doubled(logits, *args, **kwargs):
        loss = found(logits, *args, **kwargs)
        return 2 * loss - loss.detach()

    found = _deferred.cross_entropy
    monkeypatch.setattr(_deferred, "cross_entropy", doubled)
    with pytest.raises(ValueError, match="LlamaForCausalLM has another gradient"):
        patch(model_of("Llama"))


def test_a_class_that_changed_since_is_not_undone():
    model = patch(model_of("Llama"))
    model.__class__ = type("Sharded", (type(model),), {})
    for call in (patch, unpatch):
        with pytest.raises(ValueError, match=r"LlamaForCausalLM was patched.*changed since"):
            call(model)


def test_a_class_that_two_threads_have_made_is_undone():
    model = patch(model_of("Llama"))
    _patch._patched.cache_clear()  # as where that of the other thread took the place of its own
    assert type(unpatch(patch(model))) is transformers.LlamaForCausalLM


@pytest.mark.parametrize("use", [
    lambda z: z.argmax(-1), lambda z: z[..., :3], lambda z: z[:, :, 1], lambda z: z[torch.eye(2)],
    lambda z: z * -1, lambda z: z * torch.ones(2), lambda z: z / 0, lambda z: z + 1,
    lambda z: z.float() * 2 + torch.ones(N), lambda z: torch.tanh(torch.tanh(z)),
    lambda z: torch.softmax(z, -1), lambda z: z.to("meta"),
    lambda z: F.cross_entropy(z, torch.zeros(2, N, dtype=int)),
    lambda z: F.cross_entropy(torch.ones(2, N), z),
])
def test_what_deferred_logits_do_not_know_is_an_error(gen, use):
    x, weight = torch.ones(2, 3, 16), torch.ones(N, 16)
    with pytest.raises((TypeError, AttributeError), match="logits of Some are not computed"):
        use(_deferred.DeferredLogits("Some", x, weight, None))
    with pytest.raises(TypeError, match="it needs them: softmax"):
        torch.softmax(_deferred.DeferredLogits("Some", x, weight, None), -1)


def test_shapes_of_deferred_logits():
    z = _deferred.DeferredLogits("Some", torch.ones(2, 3, 16), torch.ones(N, 16), None)
    assert (z.shape, z.size(-1), z.ndim, z.view(-1, N).shape) == ((2, 3, N), N, 3, (6, N))
    assert z[:, 1:].shape == z[..., 1:, :].shape == z[:, 1:, :].shape == (2, 2, N)
    assert (z[1].shape, z[1, 2].shape) == ((3, N), (N,))
    assert z.to(dtype=torch.float64).dtype == torch.float64
    assert z.to("cpu") is z
    with pytest.raises(ValueError, match="have 64 classes, got the shape"):
        z.view(-1, N + 1)


def test_scales_of_deferred_logits():
    """``factor * tanh(z / divisor)``: a softcap and what is then like a temperature."""
    z = _deferred.DeferredLogits("Some", torch.ones(2, 3, 16), torch.ones(N, 16), None)
    assert ((z / 4 * 2).softcap, (z / 4 * 2).temperature) == (None, 2)
    capped = torch.tanh(z / 4) * 6 / 2
    assert (capped.softcap, capped.temperature) == (4, 4 / 3)


# In company


def test_peft_trains_the_head_it_saves(gen):
    inputs = batch(gen)
    model = with_lora("q_proj", modules_to_save=["lm_head"])
    theirs = loss_and_gradients(model, inputs)
    ours = loss_and_gradients(patch(model), inputs)
    assert_same(ours, theirs)
    assert sum("lm_head" in name for name in ours[1]) == 1

    model.base_model.model.lm_head.modules_to_save["default"].weight.data.mul_(0.5)
    ours = model(**inputs).loss
    with model.disable_adapter():
        original = model(**inputs).loss
    unpatch(model)
    assert_close(ours, model(**inputs).loss)
    with model.disable_adapter():
        assert_close(original, model(**inputs).loss)
    assert abs(original - ours) > 0.01


def test_lora_on_the_head_afterwards_is_an_error_until_it_is_merged(gen):
    inputs = batch(gen)
    config = peft.LoraConfig(r=2, target_modules=["lm_head"], init_lora_weights=False)
    model = peft.get_peft_model(patch(model_of("Llama")), config)
    with pytest.raises(TypeError, match="LlamaForCausalLM is more than one linear layer"):
        model(**inputs)
    merged = model.merge_and_unload().requires_grad_()
    assert_same(loss_and_gradients(merged, inputs),
                loss_and_gradients(unpatch(merged), inputs))


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_accelerate_wraps_patched_models(gen, precision):
    inputs = batch(gen)
    model = patch(model_of("Llama"))
    prepared = Accelerator(cpu=True, mixed_precision=precision).prepare(model)
    ours = loss_and_gradients(prepared, inputs)
    unpatch(model)
    assert_same(ours, loss_and_gradients(prepared, inputs), 2e-6 if precision == "no" else 0.05)


def test_patched_models_are_functions_for_transforms(gen):
    model, inputs = model_of("Llama"), batch(gen)
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    theirs = loss_and_gradients(model, inputs)[1]
    patched = patch(model)
    ours = torch.func.grad(
        lambda p: torch.func.functional_call(patched, p, (), inputs).loss)(parameters)
    assert ours.keys() == theirs.keys()
    for name, gradient in ours.items():
        assert_close(gradient, theirs[name])


@pytest.mark.slow
@pytest.mark.parametrize("family", ["Llama", "Gemma2"])
def test_compiled_models_have_no_graph_break(gen, family):
    torch._dynamo.reset()
    inputs = batch(gen)
    model = model_of(family)
    theirs = loss_and_gradients(model, inputs)
    compiled = torch.compile(patch(model), backend="aot_eager", fullgraph=True)
    output = compiled(**inputs)
    model.zero_grad()
    output.loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert_same((output, gradients), theirs)


SHARDED = """
import os
import sys
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import LlamaConfig, LlamaForCausalLM
from logitless.transformers import patch

dist.init_process_group("gloo", store=dist.FileStore("store", 1), rank=0, world_size=1)
mesh = init_device_mesh("cpu", (1,))
ids = torch.arange(18).view(2, 9)
for head in ({}, {"reshard_after_forward": False}, {"reshard_after_forward": True}):
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2))
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    gradient = model.lm_head.weight.grad.clone()
    model.zero_grad()
    patch(model)
    fully_shard(model.model.layers[0], mesh=mesh)
    if head:
        fully_shard(model.lm_head, mesh=mesh, **head)
    fully_shard(model, mesh=mesh)
    try:
        output = model(input_ids=ids, labels=ids)
    except RuntimeError as error:
        print(error)
        continue
    output.loss.backward()
    found = model.lm_head.weight.grad.full_tensor()
    print(output.logits, (output.loss - loss).abs().item() < 1e-5,
          (found - gradient).abs().max().item() < 1e-6)
sys.stdout.flush()
os._exit(0)  # threads of the process group may outlive it
"""


@pytest.mark.slow
@pytest.mark.skipif(not GLOO, reason="torch has no gloo here")
def test_sharded_models(run_python):
    """A head whose weights are freed before the loss is an error, not what is there then."""
    whole, kept, freed = run_python(SHARDED).strip().split("\n")
    assert whole == kept == "None True True"
    assert "are freed before the loss needs them" in freed


class Texts(torch.utils.data.Dataset):
    """Twelve samples, of which different numbers of labels count."""

    def __len__(self):
        return 12

    def __getitem__(self, index):
        ids = torch.randint(4, N, (9,), generator=torch.Generator().manual_seed(index))
        labels = ids.clone()
        labels[: index % 5] = -100
        return {"input_ids": ids, "labels": labels}


def trained(model, folder, **options):
    """Losses of all steps, that of an evaluation, and the parameters in the end."""
    arguments = transformers.TrainingArguments(
        str(folder), use_cpu=True, report_to=[], disable_tqdm=True, save_strategy="no",
        logging_steps=1, num_train_epochs=2, per_device_train_batch_size=2,
        gradient_accumulation_steps=3, learning_rate=1e-2, seed=0, **options)
    trainer = transformers.Trainer(model, arguments, train_dataset=Texts(), eval_dataset=Texts())
    trainer.train()
    evaluated = trainer.evaluate()["eval_loss"]
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    return losses, evaluated, [parameter.detach() for parameter in model.parameters()]


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"activation_checkpointing": True}, {"bf16": True},
                                     {"label_smoothing_factor": 0.1}], ids=str)
def test_trainer_has_the_curve_of_stock(tmp_path, options):
    tol = 5e-3 if "bf16" in options else 1e-5
    losses, evaluated, parameters = trained(model_of("Llama"), tmp_path, **options)
    ours = trained(patch(model_of("Llama")), tmp_path, **options)
    assert len(losses) == 4
    assert losses[0] > losses[-1]
    assert ours[0] == pytest.approx(losses, rel=tol)
    assert ours[1] == pytest.approx(evaluated, rel=tol)
    if not options.get("bf16"):  # Adam's steps are of one size, whatever rounding makes of it
        for one, other in zip(ours[2], parameters, strict=True):
            assert_close(one, other, 1e-4)


# Scores of texts


CAUSAL = ["Llama", "Gemma2", "Cohere", "Phi"]


def word(i):
    return f"t{i}" if i > 3 else f"<{i}>"


def sentence(ids):
    return " ".join(map(word, ids))


@pytest.fixture
def tokenizer():
    """Words t4 to t63 and four special tokens; what begins a sequence is 2."""
    words = {word(i): i for i in range(N)}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<0>"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single="<2> $A", special_tokens=[("<2>", 2)])
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<2>")


def stock_perplexity(model, ids, stride, max_length):
    """The loop of transformers' documentation, its labels moved by one as there."""
    total, count, before = 0.0, 0, 0
    for begin in range(0, len(ids), stride):
        end = min(begin + max_length, len(ids))
        window = ids[None, begin:end]
        labels = window.clone()
        labels[:, : -(end - before)] = -100
        valid = int((labels[:, 1:] != -100).sum())
        with torch.no_grad():
            total += valid * model(input_ids=window, labels=labels).loss.item()
        count, before = count + valid, end
        if end == len(ids):
            return total, count


@pytest.mark.parametrize("family", CAUSAL)
@pytest.mark.parametrize(("n", "stride", "max_length"), [(40, 4, 9), (40, 1, 2), (41, 15, 16),
                                                         (7, 3, 16), (16, 8, 16), (2, 1, 2)])
def test_perplexity_is_that_of_stock(gen, family, n, stride, max_length):
    model, ids = model_of(family), torch.randint(4, N, (n,), generator=gen)
    total, count = stock_perplexity(model, ids, stride, max_length)
    found = perplexity(model, ids, stride=stride, max_length=max_length, progress=False)
    assert found.n_tokens == len(found.losses) == count == n - 1
    assert found.nll == pytest.approx(total, rel=2e-6)
    assert found.perplexity == pytest.approx(math.exp(total / count), rel=1e-5)


def test_perplexity_of_a_text_is_that_of_its_tokens(gen, tokenizer, capsys):
    ids = torch.randint(4, N, (100,), generator=gen).tolist()
    model = model_of("Llama").train()
    found = perplexity(model, tokenizer, sentence(ids))
    assert model.training
    assert "100/100" in capsys.readouterr().err  # the beginning of the sequence is one more
    by_ids = perplexity(model.eval(), [[2, *ids]], stride=32, max_length=64, progress=False)
    assert capsys.readouterr().err == ""
    assert found.n_tokens == 100
    np.testing.assert_array_equal(found.losses, by_ids.losses)


def test_patched_and_peft_models_have_scores_too(gen):
    ids = torch.randint(4, N, (20,), generator=gen)
    model = with_lora("q_proj", modules_to_save=["lm_head"])
    losses = perplexity(model, ids, max_length=8, progress=False).losses
    again = perplexity(patch(model), ids, max_length=8, progress=False).losses
    np.testing.assert_array_equal(losses, again)


def test_features_of_a_learned_prompt_are_left_out(gen, tokenizer):
    """They come first, and belong to no token."""
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    model, ids = peft.get_peft_model(model_of("Llama"), config).eval(), [5, 6, 7, 8, 9]
    losses = perplexity(model, ids, progress=False).losses
    labels = torch.tensor([ids])
    loss = model(input_ids=labels, labels=labels).loss  # the first is predicted from the prompt
    logits = model(input_ids=labels).logits[0, 3:].double()
    first = F.cross_entropy(model(input_ids=labels).logits[0, 2], labels[0, 0])
    np.testing.assert_allclose(
        losses, F.cross_entropy(logits[:-1], labels[0, 1:], reduction="none").detach(), rtol=5e-6)
    assert losses.sum() + first.item() == pytest.approx(5 * loss.item(), rel=5e-6)
    found = loglikelihood(model, tokenizer, [("t5 t6 t7", " t8 t9"), ("t5", " t6")], progress=False)
    assert [total for total, _ in found] == pytest.approx(
        [-losses[2:].sum(), -losses[0]], rel=5e-6)


@pytest.mark.parametrize("change", [
    tuple, lambda ids: range(5, 10), torch.tensor,
    lambda ids: torch.tensor(ids, dtype=torch.uint8), lambda ids: np.array([ids]),
    lambda ids: np.array(ids, ">i4"), lambda ids: np.array(ids[::-1])[::-1],
])
def test_ids_may_be_any_integers(change):
    model, ids = model_of("Llama"), [5, 6, 7, 8, 9]
    found = perplexity(model, change(ids), progress=False)
    np.testing.assert_array_equal(found.losses, perplexity(model, ids, progress=False).losses)


def test_perplexity_packs_the_head_once_and_keeps_nothing_else(gen, monkeypatch):
    made = []
    monkeypatch.setattr(_scoring.LinearHead, "from_module", classmethod(
        lambda cls, module, **options: made.append(1) or cls(module.weight.detach(), **options)))
    model, ids = model_of("Llama"), torch.randint(4, N, (40,), generator=gen)
    kept = []
    model.register_forward_hook(lambda module, args, output: kept.append(output.get("cache")))
    perplexity(model, ids, max_length=8, progress=False)
    assert made == [1]
    assert kept == [None] * 9


def stock_loglikelihood(model, context, continuation):
    """Of token ids, with all logits."""
    ids = torch.tensor([context + continuation])
    with torch.no_grad():
        z = model(input_ids=ids[:, :-1]).logits[0, -len(continuation):].double()
    hits = z.argmax(-1).tolist() == continuation
    return torch.log_softmax(z, -1)[range(len(continuation)), continuation].sum().item(), hits


@pytest.mark.parametrize("family", CAUSAL)
def test_loglikelihood_is_that_of_stock(gen, tokenizer, family):
    model = model_of(family)
    draw = torch.randint(4, N, (200,), generator=gen).tolist()
    encoded, pairs = [], []
    for i in range(12):
        context, continuation = draw[: 3 * i], draw[60 + i : 60 + 2 * i + 1]
        if i % 3 == 1:  # the likeliest
            ids = torch.tensor([context or [2]])
            continuation = model.generate(ids, max_new_tokens=2, do_sample=False, eos_token_id=0)
            continuation = continuation[0, -2:].tolist()
        encoded.append((context or [2], continuation))
        pairs.append((sentence(context), " " + sentence(continuation)))
    theirs = [stock_loglikelihood(model, *pair) for pair in encoded]
    assert [hit for _, hit in theirs].count(True) >= 4
    for batch_size in (1, 5, 100):
        ours = loglikelihood(model, tokenizer, pairs, batch_size=batch_size, progress=False)
        assert [hit for _, hit in ours] == [hit for _, hit in theirs]
        assert [total for total, _ in ours] == pytest.approx([t for t, _ in theirs], rel=5e-6)


def test_loglikelihood_tells_models_what_is_padding(tokenizer, caplog):
    transformers.logging.get_logger("transformers").warning_once.__func__.cache_clear()
    model = model_of("GPT2LMHeadModel", pad_token_id=0)
    loglikelihood(model, tokenizer, [("t5 t6", " t7"), ("t5 t6 t7", " t8")], progress=False)
    assert caplog.messages == []


def test_loglikelihood_cuts_contexts_from_the_left(tokenizer):
    model = model_of("Llama")
    pair = ("t9 t8 t7 t6 t5", " t10 t11")
    ours = loglikelihood(model, tokenizer, [pair], max_length=4, progress=False)
    theirs = stock_loglikelihood(model, [7, 6, 5], [10, 11])
    assert ours[0] == pytest.approx(theirs, rel=5e-6)
    assert ours != loglikelihood(model, tokenizer, [pair], progress=False)


def test_spaces_and_special_tokens_of_a_context(tokenizer):
    model = model_of("Llama")
    options = {"progress": False}
    one, two = (loglikelihood(model, tokenizer, [pair], **options)
                for pair in [("t9 ", "t8"), ("t9", " t8")])
    assert one == two
    begun = loglikelihood(model, tokenizer, [("t9", " t8")], add_special_tokens=True, **options)
    assert begun[0] == pytest.approx(stock_loglikelihood(model, [2, 9], [8]), rel=5e-6)
    assert loglikelihood(model, tokenizer, [("  ", "t8"), ("", "t8")], **options) == [
        pytest.approx(stock_loglikelihood(model, [2], [8]), rel=5e-6)] * 2
    assert loglikelihood(model, tokenizer, [], **options) == []


def test_without_a_beginning_an_end_takes_the_place_of_an_empty_context(tokenizer):
    tokenizer.bos_token, tokenizer.eos_token = None, "<3>"
    found = loglikelihood(model_of("Llama"), tokenizer, [("", "t8")], progress=False)
    assert found[0] == pytest.approx(stock_loglikelihood(model_of("Llama"), [3], [8]), rel=5e-6)
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="needs a `bos_token` or `eos_token`"):
        loglikelihood(model_of("Llama"), tokenizer, [("", "t8")], progress=False)


def test_scores_of_16_bit_models_have_float32_logits(gen, tokenizer):
    model = model_of("Llama").to(torch.bfloat16)
    ids = torch.randint(4, N, (20,), generator=gen)
    x = model.model(ids[None]).last_hidden_state[0, :-1].double()
    truth = F.cross_entropy(x @ model.lm_head.weight.double().T, ids[1:], reduction="none")
    found = perplexity(model, ids, progress=False)
    np.testing.assert_allclose(found.losses, truth.detach(), rtol=2e-6)


@pytest.mark.parametrize(("call", "message"), [
    (lambda m, t: perplexity(m, [5]), "two tokens at least.*shape .1,"),
    (lambda m, t: perplexity(m, [[5, 6], [7, 8]]), "in one row.*shape .2, 2"),
    (lambda m, t: perplexity(m, [5, 6, 7], stride=0), "`stride` must be at least 1, got 0"),
    (lambda m, t: perplexity(m, [5, 6, 7], stride=8, max_length=8),
     "`stride` must be less than `max_length`, 8, got 8"),
    (lambda m, t: perplexity(m, [5, 6, 7], max_length=1), "`max_length` must be at least 2"),
    (lambda m, t: loglikelihood(m, t, [("t5", "")]), "must have 1 to 64 tokens.*got 0: ''"),
    (lambda m, t: loglikelihood(m, t, [("t5", " t6 t7")], max_length=1), "1 to 1 tokens.*got 2"),
    (lambda m, t: loglikelihood(m, t, [("t5", "t6")], batch_size=0), "`batch_size` must be at"),
    (lambda m, t: perplexity(model_of("BertForMaskedLM"), [5, 6]),
     "BertForMaskedLM is no causal language model"),
    (lambda m, t: perplexity(model_of("BartForConditionalGeneration"), [5, 6]),
     "BartForConditionalGeneration is no causal"),
    (lambda m, t: perplexity(of_class(transformers.BloomForCausalLM, {"vocab_size": N}), [5, 6]),
     "`max_length` must be given: BloomForCausalLM has no"),
])
def test_scores_that_cannot_be(tokenizer, call, message):
    with pytest.raises(ValueError, match=message):
        call(model_of("Llama"), tokenizer)


@pytest.mark.parametrize(("call", "message"), [
    (lambda m, t: perplexity(m, t), "`text` must be given along with a tokenizer"),
    (lambda m, t: perplexity(m, [5, 6], "t5 t6"), "along with a tokenizer, and with nothing else"),
    (lambda m, t: perplexity(m, t, ["t5", "t6"]), "`text` must be a string, got list"),
    (lambda m, t: perplexity(m, [5.5, 6.5]), "must be integers, got float64"),
    (lambda m, t: perplexity(m, torch.tensor([True, False])), "must be integers, got bool"),
    (lambda m, t: perplexity(m, ["t5", "t6"]), "must be integers, got <U2"),
    (lambda m, t: perplexity(torch.nn.Linear(2, 2), [1, 2]),
     "must be a transformers.PreTrainedModel.*got Linear"),
    (lambda m, t: perplexity(of_class(Lifted), [1, 2], progress=False),
     "logits of Lifted are not those of one linear layer"),
    (lambda m, t: loglikelihood(m, t, ("t5", " t6")), "must be pairs of strings.*got 't5'"),
    (lambda m, t: loglikelihood(m, t, ["ab"]), "must be pairs of strings.*got 'ab'"),
    (lambda m, t: loglikelihood(m, t, [("t5", "t6", "t7")]), r"pairs of strings.*'t7'\)"),
    (lambda m, t: loglikelihood(m, t, [("t5", None)]), "must be pairs of strings.*None"),
])
def test_scores_of_what_is_no_text(tokenizer, call, message):
    with pytest.raises(TypeError, match=message):
        call(model_of("Llama"), tokenizer)


@pytest.mark.parametrize("wrong", [-1, N])
def test_ids_that_are_no_tokens(wrong):
    with pytest.raises(IndexError, match=rf"must be in \[0, {N}\), got {wrong}"):
        perplexity(model_of("Llama"), [5, wrong, 7], progress=False)


EXAMPLE = pathlib.Path(__file__).parents[1] / "examples" / "transformers_perplexity.py"


@pytest.mark.slow
def test_perplexity_example(run_python):
    """It holds what it finds against stock itself."""
    out = run_python(f"import runpy; runpy.run_path({str(EXAMPLE)!r})", OMP_NUM_THREADS="1")
    assert float(out.rpartition(" ")[2]) < 1e-5


def test_the_check_leaves_what_else_runs_in_evaluation():
    model = model_of("Llama").train()
    model.model.norm.eval()
    with _check.in_evaluation(model):
        assert not any(module.training for module in model.modules())
    assert [name for name, module in model.named_modules() if not module.training] == ["model.norm"]


WITHOUT = """
import sys
sys.modules[{name!r}] = None
try:
    import logitless.transformers
except ImportError as error:
    print(error)
"""


@pytest.mark.parametrize("name", ["torch", "transformers"])
def test_without_what_it_needs_the_import_says_what_to_install(run_python, name):
    assert 'pip install "logitless[transformers]"' in run_python(WITHOUT.format(name=name))
