"""The table a run ends with: every number beside what its controls score."""

from collections.abc import Mapping

# Printed as they are; everything else is a share and printed in per cent.
NOT_SHARES = ("MedR", "MeanR", "vocabulary", "words", "SI-SDR", "SNR", "SDR", "SIR", "SAR", "PESQ")
MOST_CHARACTERS = 110  # of a line; further columns stand below


def table(
    metrics: Mapping[str, float],
    controls: Mapping[str, Mapping[str, float]],
    missing: Mapping[str, str] | None = None,
) -> str:
    """Metrics and controls as text.

    Args:
        metrics: {name: number}; `image_to_text_R@1` stands in column R@1 of the rows of `image to text`, a name without
            a direction in the rows of the whole.
        controls: {control: {name: number}}, each a row below the model's own.
        missing: {metric: why it is not computed}, a line each below the table.

    >>> print(table({"accuracy": 0.9}, {"chance": {"accuracy": 0.25}}))
                     accuracy
    result               90.0
      chance             25.0
    """
    groups: dict[str, dict[str, float]] = {}
    for name, value in metrics.items():
        group, column = split(name)
        groups.setdefault(group, {})[column] = value
    width = 2 + max(len(label) for label in [*groups, *controls, "result"] for label in [label.replace("_", " ")])
    width = max(width, 16)
    lines, header = [], ""
    for group, columns in groups.items():
        for part in parted(list(columns), MOST_CHARACTERS - width):
            widths = {column: max(len(title(column)), 7) + 1 for column in part}
            titles = " " * width + "".join(f"{title(column):>{w}}" for column, w in widths.items())
            if titles != header:
                lines.append(titles)
                header = titles
            rows = {group.replace("_", " ") or "result": columns}
            for control, numbers in controls.items():
                ours = {column: numbers[joined] for column in part if (joined := join(group, column)) in numbers}
                if ours:
                    rows[f"  {control.replace('_', ' ')}"] = ours
            for label, numbers in rows.items():
                cells = "".join(f"{shown(column, numbers.get(column)):>{w}}" for column, w in widths.items())
                lines.append(f"{label:<{width}}{cells}")
    lines += [f"{name}: not computed: {why}" for name, why in (missing or {}).items()]
    return "\n".join(lines)


def title(column: str) -> str:
    """What stands above a column: of the accuracy on one kind of questions, the kind."""
    return column.removeprefix("accuracy/")


def parted(columns: list[str], characters: int) -> list[list[str]]:
    """Columns in parts whose titles fit into so many characters, at least one each."""
    parts: list[list[str]] = [[]]
    room = characters
    for column in columns:
        room -= max(len(title(column)), 7) + 1
        if room < 0 and parts[-1]:
            parts.append([])
            room = characters - max(len(title(column)), 7) - 1
        parts[-1].append(column)
    return parts


def split(name: str) -> tuple[str, str]:
    """`image_to_text_R@1` -> ("image_to_text", "R@1"); a name without a direction -> ("", name)."""
    if "_to_" not in name:
        return "", name
    group, _, column = name.rpartition("_")
    return group, column


def join(group: str, column: str) -> str:
    """The name that `split` took apart."""
    return f"{group}_{column}" if group else column


def shown(column: str, value: float | None) -> str:
    """A number as a table prints it: shares in per cent."""
    if value is None:
        return ""
    return f"{value:.1f}" if column.startswith(NOT_SHARES) else f"{100 * value:.1f}"
