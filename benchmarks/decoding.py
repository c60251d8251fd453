"""Decoding photographs: images per second, ours beside what people use.

    python benchmarks/decoding.py --shared ../shared [--output benchmarks/decoding.md]

Every repetition runs every way once over the same photographs, in an order of its own, so that what else
the machine does hits all alike; the table has medians, at its end those of the ratios within a repetition.
The first ways run on one thread, ours on all. What all cores do at once is not always what one does times
the cores: a process of simplejpeg on each shows it.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import platform
import random
import statistics
import time
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image
from simplejpeg import decode_jpeg

from graft.files import whole_file
from graft.images.decoding import decode_array, resize_crop, shared_out, to_pixels, workers
from graft.images.preprocessing import Preprocessing
from graft.progress import track

SIZES = Preprocessing(224, 232)  # as torchvision's newer ImageNet weights have it
ENLARGED = 4
Way = Callable[[bytes], object]


@dataclass(frozen=True)
class Case:
    """A column of the table: photographs, and whether they are resized."""

    name: str
    photographs: Sequence[bytes]
    resized: bool


@dataclass(frozen=True)
class Row:
    """A way to decode: its name, its threads or processes, and what it does; None where it is not there."""

    name: str
    threads: int
    decodes: Way | None
    resizes: Way | None
    processes: bool = False


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="folder of the photographs")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("decoding.md"))
    parser.add_argument(
        "--images", type=int, default=1500, help="photographs (an eighth as many enlarged ones)"
    )
    parser.add_argument("--repetitions", type=int, default=7)
    given = parser.parse_args()
    small = photographs(given.shared / "data" / "imagenette_1500.zip", given.images)
    large = [enlarge(content) for content in small[: max(1, given.images // 8)]]
    cases = [
        Case(f"{name}, {what}", some, what != "decoded")
        for name, some in ((f"{short_side(small)} px", small), (f"{short_side(large)} px", large))
        for what in ("decoded", f"decoded and resized to {SIZES.resize_size}")
    ]
    found = {case.name: measure(case, given.repetitions) for case in cases}
    with whole_file(given.output) as temporary:
        temporary.write_text(page(cases, found, given.repetitions), encoding="utf-8")
    print(given.output.read_text(encoding="utf-8"))


def photographs(archive: Path, count: int) -> list[bytes]:
    """Some of the photographs, from all over the archive."""
    if not archive.is_file():
        raise SystemExit(f"{archive} is absent: give the folder that holds data/{archive.name} as --shared")
    with zipfile.ZipFile(archive) as opened:
        names = [name for name in opened.namelist() if name.lower().endswith((".jpg", ".jpeg"))]
        return [opened.read(name) for name in names[:: max(1, len(names) // count)][:count]]


def enlarge(content: bytes) -> bytes:
    """The photograph at four times the side, grainy as a camera's."""
    image = Image.open(io.BytesIO(content)).convert("RGB")
    image = image.resize((image.width * ENLARGED, image.height * ENLARGED), Image.Resampling.BICUBIC)
    grain = np.random.default_rng(0).normal(0, 4, (image.height, image.width, 1))
    stream = io.BytesIO()
    Image.fromarray(np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8)).save(
        stream, "JPEG", quality=90
    )
    return stream.getvalue()


def rows() -> list[Row]:
    """The ways, the last one ours on all cores."""
    return [
        Row("Pillow", 1, pillow, lambda content: resize_crop(pillow(content), SIZES)),
        Row("Pillow, draft mode", 1, None, drafted),
        torchvision_row(),
        Row("simplejpeg", 1, decode_jpeg, by_simplejpeg),
        Row("simplejpeg, a process per core", workers(), decode_jpeg, by_simplejpeg, processes=True),
        Row("graft", 1, decode_array, lambda content: to_pixels(content, SIZES)),
        Row("graft", workers(), decode_array, lambda content: to_pixels(content, SIZES)),
    ]


def pillow(content: bytes) -> Image.Image:
    """As a torchvision data set does it."""
    return Image.open(io.BytesIO(content)).convert("RGB")


def drafted(content: bytes) -> np.ndarray:
    """Decoded at 1/2, 1/4 or 1/8 of the size, where twice the wanted size is left."""
    image = Image.open(io.BytesIO(content))
    scale = 2 * SIZES.resize_size / min(image.size)
    size = image.size
    image.draft("RGB", (int(size[0] * scale) + 1, int(size[1] * scale) + 1))
    return resize_crop(image.convert("RGB"), SIZES, size=size)


def by_simplejpeg(content: bytes) -> np.ndarray:
    """Scaled as far as it does so by itself, and resized by Pillow."""
    side = 2 * SIZES.resize_size
    pixels = decode_jpeg(content, "RGB", min_width=side, min_height=side, min_factor=2)
    return resize_crop(Image.fromarray(pixels), SIZES)


def torchvision_row() -> Row:
    """torchvision.io, where its build has a decoder."""
    try:
        import torch
        from torchvision.io import ImageReadMode, decode_image
        from torchvision.transforms.v2 import functional

        def decodes(content: bytes) -> torch.Tensor:
            return decode_image(torch.frombuffer(bytearray(content), dtype=torch.uint8), ImageReadMode.RGB)

        def resizes(content: bytes) -> torch.Tensor:
            resized = functional.resize(decodes(content), [SIZES.resize_size], antialias=True)
            return functional.center_crop(resized, [SIZES.resize_size])

        torch.set_num_threads(1)
        decodes(encoded_pixel())
    except Exception as error:  # a build without libjpeg fails in a way of its own
        reason = str(error).strip().splitlines()[0][:60] if str(error) else type(error).__name__
        return Row(f"torchvision.io (not in this build: {reason})", 1, None, None)
    return Row("torchvision.io", 1, decodes, resizes)


def encoded_pixel() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (16, 16)).save(stream, "JPEG")
    return stream.getvalue()


def measure(case: Case, repetitions: int) -> list[list[float]]:
    """Images per second of each row in every repetition but the first, which warms up."""
    ways = [(row.resizes if case.resized else row.decodes, row) for row in rows()]
    present = [number for number, (way, _) in enumerate(ways) if way]
    rates: list[list[float]] = [[] for _ in ways]
    order = random.Random(0)
    runs = track(range(repetitions + 1), case.name, total=repetitions + 1, unit="repetitions")
    for repetition in runs:
        order.shuffle(present)
        for number in present:
            way, row = ways[number]
            assert way is not None
            measured = rate_in_processes if row.processes else rate_of
            rate = measured(way, case.photographs, row.threads)
            if repetition:
                rates[number].append(rate)
    return rates


def rate_of(way: Way, contents: Sequence[bytes], threads: int) -> float:
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(len, contents[:threads]))  # threads start before the clock does
        start = time.perf_counter()
        for _ in shared_out(pool, way, contents) if threads > 1 else map(way, contents):
            pass
        return len(contents) / (time.perf_counter() - start)


def rate_in_processes(way: Way, contents: Sequence[bytes], processes: int) -> float:
    """Each has its share of the photographs and a clock of its own."""
    shares = [contents[start::processes] for start in range(processes)]
    with ProcessPoolExecutor(processes, multiprocessing.get_context("fork")) as pool:
        return sum(pool.map(rate_of, [way] * processes, shares, [1] * processes))


def page(cases: Sequence[Case], found: dict[str, list[list[float]]], repetitions: int) -> str:
    """The table as Markdown."""
    lines = [
        "# Decoding",
        "",
        __doc__.strip().split("\n\n")[1].strip().join(["    ", ""]),
        "",
        f"Images per second and core, medians of {repetitions} repetitions in one run. {machine()}",
        f"{len(cases[0].photographs)} photographs of Imagenette, {mean_size(cases[0])} KB each, and "
        f"{len(cases[2].photographs)} of them at {ENLARGED} times the side, with grain: "
        f"{mean_size(cases[2])} KB.",
        "",
        "| | threads |" + "".join(f" {case.name} |" for case in cases),
        "|---|---|" + "---|" * len(cases),
    ]
    for number, row in enumerate(rows()):
        rates = [found[case.name][number] for case in cases]
        shown = " | ".join(f"{per_core(rate, row):.0f}" if rate else "-" for rate in rates)
        lines.append(f"| {row.name} | {row.threads} | {shown} |")
    alone = shares(cases, found, lambda row: row.threads == 1)
    lines.append(f"| graft on all cores, of the best single thread | | {alone} |")
    lines.append(f"| of a process per core | | {shares(cases, found, lambda row: row.processes)} |")
    return "\n".join(lines) + "\n"


def shares(cases: Sequence[Case], found: dict[str, list[list[float]]], among: Callable[[Row], bool]) -> str:
    """The last row's rate per core, of the best one among these rows: the median over the repetitions."""
    ways = rows()
    parts = []
    for case in cases:
        measured = [(row, rates) for row, rates in zip(ways, found[case.name], strict=True) if rates]
        row, best = max(
            (each for each in measured if among(each[0])), key=lambda each: per_core(each[1], each[0])
        )
        ratios = [
            a / ways[-1].threads / (b / row.threads) for a, b in zip(measured[-1][1], best, strict=True)
        ]
        parts.append(f"{statistics.median(ratios):.2f}")
    return " | ".join(parts)


def per_core(rates: list[float], row: Row) -> float:
    """The median rate of a thread."""
    return statistics.median(rates) / row.threads


def short_side(photographs: Sequence[bytes]) -> int:
    """The median."""
    return int(statistics.median(min(Image.open(io.BytesIO(content)).size) for content in photographs))


def mean_size(case: Case) -> str:
    return f"{sum(map(len, case.photographs)) / len(case.photographs) / 1000:.0f}"


def machine() -> str:
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    packages = ", ".join(f"{name} {version(name)}" for name in ("pillow", "simplejpeg", "torchvision"))
    return f"Machine: {model}, {workers()} cores. {packages}."


if __name__ == "__main__":
    main()
