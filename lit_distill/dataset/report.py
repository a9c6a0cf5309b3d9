"""What came out of a distillation of a dataset, and what to do with it."""

from lightning.pytorch import Trainer

from lit_distill.callbacks.folder import run_folder
from lit_distill.dataset.distiller import DatasetDistiller


def report_distilled(trainer: Trainer, module: DatasetDistiller) -> None:
    """Write the set into the run's folder, and say where it is and how it is used.

    Args:
        trainer: The trainer of the finished fit.
        module: What it trained.
    """
    run = run_folder(trainer)  # asks all ranks
    if not trainer.is_global_zero:
        return
    folder = module.save(run / "distilled")
    images = module.synthetic.num_classes * module.synthetic.images_per_class
    print(f"Run folder: {run} (config, metrics, curves, checkpoints)")
    print(f"Distilled set: {folder} ({images} images; images.png shows them, card.json says what they are)")
    print(f"Load it: lit_distill.dataset.DistilledDataset.load({str(folder)!r})")
    recipe = module.recipe or ("dc" if module.augment is None else "dsa")
    print(f"Judge it: lit-distill evaluate {folder} --recipe {recipe}")
