#!/usr/bin/env python3
"""Files that NumPy writes, for tests/io/npy_test.cpp: writes *.npy and *.npz beside this script. Needs numpy."""
import pathlib

import numpy as np

HERE = pathlib.Path(__file__).parent
x = (np.arange(24) / 4 - 1).reshape(2, 3, 4)

np.save(HERE / "float32.npy", x.astype("<f4"))
np.save(HERE / "fortran.npy", np.asfortranarray(x[0]))
np.save(HERE / "objects.npy", np.array([{}, 1], dtype=object), allow_pickle=True)
np.savez(HERE / "stored.npz", **{kind: x.astype(kind) for kind in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "?")},
         unsigned=np.array([0, 255], "u1"), scalar=np.float64(3.5), nothing=np.zeros((0, 3), "f4"), turned=x.astype(">f4"))
np.savez_compressed(HERE / "compressed.npz", x=np.tile(x.astype("f4"), (8, 1, 1)), zeros=np.zeros(10**6, "u1"))
