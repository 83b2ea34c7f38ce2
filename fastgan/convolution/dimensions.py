"""What docstrings call things in 1, 2 and 3 dimensions."""

_IMAGES = {1: "sequences", 2: "images", 3: "volumes"}
_AXES = {1: "L", 2: "HW", 3: "DHW"}


def document(text: str, n: int, **names: str) -> str:
    """A docstring for n dimensions: of a template in which lines that begin with "2d" are for two dimensions alone.

    Args:
        text: may have {n}; {images}, {image}; {sizes} such as "H, W"; {new_sizes}; {kernel} such as "kh, kw"; and for a
            letter q {or_q}, such as ", or [qh, qw]".
        n: 1, 2 or 3.
        names: more of such words.
    """
    if n == 2:
        lines = [line.replace("2d", "  ", 1) if line.startswith("2d") else line for line in text.splitlines()]
    else:
        lines = [line for line in text.splitlines() if not line.startswith("2d")]
    several = {letter: ", ".join(letter + axis.lower() for axis in _AXES[n]) for letter in "spdk"}
    return "\n".join(lines).format(
        n=n,
        images=_IMAGES[n],
        image=_IMAGES[n][:-1],
        sizes=", ".join(_AXES[n]),
        new_sizes=", ".join(f"{axis}'" for axis in _AXES[n]),
        kernel=several["k"] if n > 1 else "k",
        **{f"or_{letter}": f", or [{several[letter]}]" if n > 1 else "" for letter in "spd"},
        **names,
    )
