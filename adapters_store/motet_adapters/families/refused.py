"""Families of PEFT 0.21 that are not served, each with the reason and what to do instead."""

from motet_adapters.families.family import Family

_ARXIV = "https://arxiv.org/abs/"
_CONVERT = (
    "Convert it where it was trained, with peft.tuners.lora.conversion.save_as_lora, and upload "
    "the LoRA"
)


def _refused(peft_type: str, title: str, formula: str, paper_url: str, fix: str) -> Family:
    return Family(
        name=peft_type.lower().replace("_", "-"),
        title=title,
        peft_type=peft_type,
        status="refused",
        formula=formula,
        lowering="none",
        rank_after="-",
        memory="-",
        paper_url=paper_url,
        fix=fix,
    )


REFUSED: tuple[Family, ...] = (
    _refused(
        "ADAPTION_PROMPT",
        "LLaMA-Adapter",
        "attention over the prompt's own keys and values, gated, added to each layer's attention",
        f"{_ARXIV}2303.16199",
        "its gated attention is not part of the model that runs. Train prefix tuning instead",
    ),
    _refused(
        "POLY",
        "Poly, MHR",
        "y = W x + sum_i r_i(task) B_i A_i x",
        f"{_ARXIV}2202.13914",
        "it chooses its skills by the task number of a request, which requests here do not have. "
        "Upload one LoRA for each task",
    ),
    _refused(
        "XLORA",
        "X-LoRA",
        "y = W x + sum_i w_i(h) B_i A_i x, w of a first forward pass",
        f"{_ARXIV}2402.07148",
        "it weighs its adapters by a forward pass before each token. Upload the LoRAs, and name "
        "several in a request, with weights",
    ),
    _refused(
        "LILY",
        "Lily",
        "y = W x + sum_i softmax(router(A x))_i B_i A x",
        f"{_ARXIV}2407.09946",
        "it chooses its factors by the input. Train LoRA instead",
    ),
    _refused(
        "SHADOW",
        "ShadowPEFT",
        "a second network beside the layers",
        "https://huggingface.co/docs/peft/main/package_reference/shadow",
        "it runs a second network beside the model. Train LoRA instead",
    ),
    _refused(
        "PEANUT",
        "PEANuT",
        "y = W x + s f(W A ...) B x, f a network over the weight",
        f"{_ARXIV}2410.01870",
        "its update is a network applied to the weight. Train LoRA instead",
    ),
    _refused(
        "ADAMSS",
        "AdaMSS",
        "y = W x + the updates of clusters of W's singular subspaces",
        "https://huggingface.co/docs/peft/main/package_reference/adamss",
        "which subspace is whose depends on a clustering that its files do not hold. Train LoRA "
        "instead",
    ),
    _refused(
        "FROD",
        "FRoD",
        "y = W x + U (R + sparse) V x over a joint decomposition of all weights",
        "https://doi.org/10.1609/aaai.v40i31.39813",
        "its update is of full rank over bases of its own. Train LoRA instead",
    ),
    _refused(
        "GLORA",
        "GLoRA",
        "y = (W + W A + B) x + W C + D b + E + b",
        f"{_ARXIV}2306.07967",
        "it multiplies the weight and mixes it into the bias. Train LoRA with lora_bias instead",
    ),
    _refused(
        "WAVEFT",
        "WaveFT",
        "y = W x + s IDWT(spectrum) x",
        f"{_ARXIV}2505.12532",
        f"its update is an inverse wavelet transform of full rank. {_CONVERT}",
    ),
    _refused(
        "SUPERTUNING",
        "Super, Supra",
        "y = W x + S x (+ B A x), S where W is largest",
        f"{_ARXIV}2607.09287",
        "it changes single entries of the weights. Train LoRA instead",
    ),
    _refused(
        "PSOFT",
        "PSOFT",
        "y = W x + s B (R - I) A x, A and B singular vectors of W",
        "https://openreview.net/forum?id=FSHrinMArK",
        "its files hold R alone, over singular vectors whose signs differ between machines. "
        + _CONVERT,
    ),
    _refused(
        "BONE",
        "Bone",
        "what PEFT calls MiSS since 0.17",
        f"{_ARXIV}2409.15371",
        "PEFT itself no longer reads it. Convert it to MiSS with PEFT's "
        "scripts/convert-bone-to-miss.py",
    ),
)
