"""What a representation is worth, as a Markdown page: how it was learned, what every source loses, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fusion.transfer.representation import About


def page(about: About, file: str) -> str:
    """The page of the representation in `file`, from what the file itself says."""
    found, settings = about.diagnosis, about.settings
    numbers = {name: _product(shape) for name, shape in about.shapes.items()}
    schedule, left = settings["schedule"], settings.get("left_out_schedule")
    networks = f"a LoRA of rank {settings['rank']} for each source, trained" if settings["rank"] else "the members' own, frozen"
    lines = [
        f"# A shared representation of prompts: {file}",
        "",
        "Phase 1 of transfer by a shared representation (Cheng, Xie, Zhang, Zhang; NeurIPS 2025; arXiv 2502.04491), made by "
        "`python -m fusion represent` (see its `--help`). A network `h` presses what the text encoder made of a prompt into a few numbers; "
        "a decoder turns them back into what the denoisers read. Both are learned jointly over all sources, by score matching.",
        "",
        "| setting | |",
        "| --- | --- |",
        f"| sources | {', '.join(about.members)} |",
        f"| images of each | {', '.join(map(str, settings['images']))} (an eighth held out), {settings['prompts']} different prompts |",
        f"| score networks | {networks} |",
        f"| from prompt to numbers | {' + '.join(f'{n:,} ({name})' for name, n in numbers.items())} to {about.dimensions} and back |",
        f"| training | {schedule['steps']} steps of {schedule['batch']} images of every source, seed {schedule['seed']} |",
        *([f"| without one source | {left['steps']} steps each |"] if left else []),
        "",
        f"**{found['verdict']}**",
        "",
        "## What conditioning through h loses",
        "",
        "Mean square error of the network's prediction on held-out images, at the same noise: with the whole prompt, through h, with an "
        "empty prompt. The share is (through - whole) / (empty - whole), with its 95 % interval over images.",
        "",
        *_table(found["losses"]),
        "",
    ]
    if found["left_out"]:
        lines += ["## Through an h that never saw the source", "", *_table(found["left_out"]), ""]
    dimension = found["dimension"]
    tried = ", ".join(f"{count}: {max(lost, 0):.1%}" for count, lost in dimension["lost"])
    lines += [
        "## Effective dimension",
        "",
        f"Of {about.dimensions} numbers {dimension['used']} are used: so many principal axes of h, in the decoder's eyes, must be kept to "
        f"lose at most 5 % of the prompt's worth (axes kept, and share lost beyond the table's: {tried}). Participation ratio "
        f"{dimension['participation']:.1f}; shares of variance {', '.join(f'{share:.2f}' for share in dimension['spectrum'])}.",
        "",
    ]
    return "\n".join(lines)


def _table(losses: Sequence[Mapping]) -> list[str]:
    rows = ["| source | whole prompt | through h | empty prompt | share lost | 95 % |", "| --- | --- | --- | --- | --- | --- |"]
    for loss in losses:
        low, high = loss["interval"]
        rows.append(f"| {loss['source']} | {loss['full']:.4f} | {loss['through']:.4f} | {loss['blank']:.4f} | {loss['share']:.1%} | "
                    f"{low:.1%} to {high:.1%} |")  # fmt: skip
    return rows


def _product(shape: Sequence[int]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total
