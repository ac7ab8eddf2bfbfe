"""A package with its own C++ op, built on those of ste-core."""

import torch
from setuptools import setup
from torch.utils.cpp_extension import BuildExtension, CppExtension

import ste_core

extension = CppExtension(
    "stochastic_ops._C",
    ["stochastic_ops.cpp"],
    include_dirs=ste_core.include_paths(),
    library_dirs=ste_core.library_paths(torch.__version__),
    libraries=["ste"],
)
setup(
    packages=["stochastic_ops"],
    ext_modules=[extension],
    cmdclass={"build_ext": BuildExtension.with_options(use_ninja=False)},
)
