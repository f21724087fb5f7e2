#!/usr/bin/env python3
"""Reads the event files of a run by TensorBoard itself: read_tensorboard.py RUN/logs. Needs the package tensorboard."""
import pathlib
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader

SCALARS = {"train_loss", "train_recon", "train_kl", "val_loss", "val_recon", "val_kl", "current_beta", "learning_rate"}

folder = pathlib.Path(sys.argv[1])
records = sum(1 for file in folder.iterdir() for _ in RawEventFileLoader(str(file)).Load())  # a wrong CRC ends this by an error
events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "histograms": 0, "images": 0})
events.Reload()
tags = events.Tags()
missing = SCALARS - set(tags["scalars"])
epochs = len(events.Scalars("train_loss"))
print(f"{records} records, {epochs} epochs, scalars {sorted(tags['scalars'])}, histograms {tags['histograms']}, images {tags['images']}")
for tag in tags["histograms"]:
    histogram = events.Histograms(tag)[-1].histogram_value
    assert sum(histogram.bucket) == histogram.num > 0, tag
if missing or not tags["images"] or not tags["histograms"]:
    sys.exit(f"missing: {sorted(missing)}")
