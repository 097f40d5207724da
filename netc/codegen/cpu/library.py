"""Code every image of a level has alike: compiled once a process, linked into each image."""

from __future__ import annotations

import functools

from netc.codegen.cpu.emit import Module
from netc.codegen.cpu.events import emit_events
from netc.codegen.cpu.gemm import FORMS, Form, emit_gemm
from netc.codegen.cpu.image import Image, link
from netc.codegen.cpu.native import emit_run_loop
from netc.codegen.cpu.target import Target, compile_module


@functools.cache
def run_loop(target: Target) -> bytes:
    """The object of the run loop and the workers' life."""
    module = Module(target)
    emit_run_loop(module)
    return compile_module(module.text(), target)


@functools.cache
def between_devices(target: Target) -> bytes:
    """The object of signals and waits."""
    module = Module(target)
    emit_events(module)
    return compile_module(module.text(), target)


@functools.cache
def matrix_kernels(target: Target, form: Form) -> bytes:
    """The object of the microkernels of a form and their driver."""
    module = Module(target)
    emit_gemm(module, form)
    return compile_module(module.text(), target)


def build_image(module: Module, devices: int = 1) -> Image:
    """A module with the run loop, and what else it needs of the library, as one image."""
    target = module.target
    objects = [compile_module(module.text(), target), run_loop(target)]
    objects += [matrix_kernels(target, f) for f in FORMS if module.refers_to(f.driver)]
    if devices > 1:
        objects.append(between_devices(target))
    return link(*objects)
