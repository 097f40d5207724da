"""Prototxts of MobileNet v1 and VGG-16, written as their authors' files are laid out."""

from __future__ import annotations


def layer(name: str, kind: str, bottom: str, top: str, body: str = "") -> str:
    return f'layer {{ name: "{name}" type: "{kind}" bottom: "{bottom}" top: "{top}" {body} }}\n'


def mobilenet() -> str:
    """shicai/MobileNet-Caffe, mobilenet_deploy.prototxt."""
    out = [
        'name: "MOBILENET"\ninput: "data"\n',
        "input_dim: 1 input_dim: 3 input_dim: 224 input_dim: 224\n",
    ]
    x, channels = "data", 3

    def unit(name: str, width: int, kernel: int, stride: int, groups: int) -> None:
        nonlocal x, channels
        conv = f"num_output: {width} bias_term: false pad: {kernel // 2} kernel_size: {kernel} "
        conv += f"stride: {stride}" + (f" group: {groups}" if groups > 1 else "")
        filler = ' weight_filler { type: "msra" }'
        out.append(layer(name, "Convolution", x, name, f"convolution_param {{ {conv}{filler} }}"))
        stats = "batch_norm_param { use_global_stats: true eps: 1e-5 }"
        out.append(layer(f"{name}/bn", "BatchNorm", name, name, stats))
        out.append(layer(f"{name}/scale", "Scale", name, name, "scale_param { bias_term: true }"))
        out.append(layer(f"relu{name}", "ReLU", name, name))
        x, channels = name, width

    unit("conv1", 32, 3, 2, 1)
    widths = {"2_1": 64, "2_2": 128, "3_1": 128, "3_2": 256, "4_1": 256, "4_2": 512}
    widths |= {f"5_{i}": 512 for i in range(1, 6)} | {"5_6": 1024, "6": 1024}
    for n, width in widths.items():
        stride = 2 if n in ("2_2", "3_2", "4_2", "5_6") else 1
        unit(f"conv{n}/dw", channels, 3, stride, channels)
        unit(f"conv{n}/sep", width, 1, 1, 1)
    pool = "pooling_param { pool: AVE global_pooling: true }"
    out.append(layer("pool6", "Pooling", x, "pool6", pool))
    fc = 'convolution_param { num_output: 1000 kernel_size: 1 weight_filler { type: "msra" } }'
    out.append(layer("fc7", "Convolution", "pool6", "fc7", fc))
    out.append(layer("prob", "Softmax", "fc7", "prob"))
    return "".join(out)


def vgg16() -> str:
    """The authors' VGG_ILSVRC_16_layers_deploy.prototxt."""
    out = [
        'name: "VGG16"\ninput: "data"\ninput_dim: 10 input_dim: 3 input_dim: 224 input_dim: 224\n'
    ]
    x = "data"
    for stage, (count, width) in enumerate(((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)), 1):
        for i in range(1, count + 1):
            conv = f"convolution_param {{ num_output: {width} pad: 1 kernel_size: 3 }}"
            out.append(layer(f"conv{stage}_{i}", "Convolution", x, x := f"conv{stage}_{i}", conv))
            out.append(layer(f"relu{stage}_{i}", "ReLU", x, x))
        pool = "pooling_param { pool: MAX kernel_size: 2 stride: 2 }"
        out.append(layer(f"pool{stage}", "Pooling", x, x := f"pool{stage}", pool))
    for name, width in (("fc6", 4096), ("fc7", 4096), ("fc8", 1000)):
        fc = f"inner_product_param {{ num_output: {width} }}"
        out.append(layer(name, "InnerProduct", x, x := name, fc))
        if name != "fc8":
            out.append(layer(f"relu_{name}", "ReLU", x, x))
            out.append(
                layer(f"drop_{name}", "Dropout", x, x, "dropout_param { dropout_ratio: 0.5 }")
            )
    out.append(layer("prob", "Softmax", x, "prob"))
    return "".join(out)
