"""What others found when they trained on data protected by CUDA: defences, detection, and their own runs."""

from unlearnable_kernels.recipes.papers.cuda_cvpr2023 import CUDA, SETTINGS
from unlearnable_kernels.recipes.row import DETECTED, Paper, Row, once

NAME = "later-breaks"
DIFFUSION = "a trained diffusion model, which is not here"

PAPER = Paper(
    NAME,
    "RSK+FF (arXiv 2411.01742), COIN (AAAI 2025), UEraser, ISS, ECLIPSE, OP, APBench",
    (
        *(
            Row(
                f"{NAME}/{dataset}/rsk-ff/cuda",
                once(figure),
                dataset,
                CUDA,
                defences=("rsk:padding=valid", "ff"),
                training=SETTINGS[dataset],
            )
            for dataset, figure in (("cifar10", 78.53), ("cifar100", 53.33), ("imagenet100", 43.08))
        ),
        Row(f"{NAME}/cifar10/coin/cuda", once(72.41), "cifar10", CUDA, defences=("coin",)),
        Row(
            f"{NAME}/imagenet100/coin/cuda",
            once(37.5),
            "imagenet100",
            CUDA,
            defences=("coin",),
            training=SETTINGS["imagenet100"],
        ),
        # Pictures of their own sizes: resized ones could be told from clean ones by that.
        *(
            Row(f"{NAME}/{dataset}/epd/cuda", once(figure), dataset, CUDA, test=DETECTED)
            for dataset, figure in (("cifar10", 89.0), ("imagenet100", 99.9))
        ),
        *(
            Row(f"{NAME}/cifar10/erm/{name}", once(figure), "cifar10", f"{CUDA},filters={kind}", about=True)
            for name, kind, figure in (("vuda", "vertical", 41.0), ("huda", "horizontal", 40.0))
        ),
        Row(
            f"{NAME}/cifar10/at-linf-8/cuda",
            once(49.32),
            "cifar10",
            CUDA,
            defences=("at-linf:eps=8/255",),
        ),
        *(
            Row(f"{NAME}/cifar10/{name}/cuda", once(figure), "cifar10", CUDA, defences=(defence,))
            for name, defence, figure in (
                ("iss-grayscale", "grayscale", 22.89),
                ("iss-jpeg", "jpeg:quality=10", 43.31),
                ("ueraser", "ueraser", 40.78),
                ("op", "op", 28.66),
            )
        ),
        *(
            Row(
                f"{NAME}/cifar10/{defence}/{protection}",
                once(figure),
                "cifar10",
                lacking=f"the protection {protection.upper()}, which is not built here",
            )
            for protection, figures in (
                ("ops", {"erm": 14.69, "jpeg": 78.48}),
                ("ar", {"erm": 11.74, "worst": 90.12}),
                ("lsp", {"erm": 13.06, "worst": 92.83}),
            )
            for defence, figure in figures.items()
        ),
        Row(f"{NAME}/cifar10/eclipse/cuda", once(34.18), "cifar10", CUDA, lacking=DIFFUSION),
    ),
)
