"""Compare the golden values with those of this code, to the last digit, or write them anew; see README.md."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: another number of threads adds in another order
sys.path.insert(0, str(Path(__file__).parents[1]))

PARTS = ("losses", "keys", "hashes", "artefacts")


def main() -> int:
    """Return 1 where something differs."""
    parser = argparse.ArgumentParser(prog="python tests/golden", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--check", action="store_true", help="compare to the last digit; all parts unless some are named")
    what.add_argument("--write", action="store_true", help="write the named parts anew")
    parser.add_argument("parts", nargs="*", help=", ".join(PARTS))
    given = parser.parse_args()
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; known: {', '.join(PARTS)}")
    if given.write and not given.parts:
        parser.error("name the parts to write: what is written anew no longer shows what changed")
    chosen = [part for part in PARTS if part in (given.parts or PARTS)]
    if given.write:
        chosen.sort(key=lambda part: part != "artefacts")  # hashes are those of its subjects
    steps = {"losses": _losses, "keys": _keys, "hashes": _hashes, "artefacts": _artefacts}
    wrong = 0
    for part in chosen:
        lines = steps[part](write=given.write)
        sys.stdout.writelines(f"{line}\n" for line in lines)
        sys.stdout.write(f"{part}: {'written' if given.write else 'different' if lines else 'the same'}\n")
        wrong += bool(lines)
    return int(wrong > 0)


def _losses(*, write: bool) -> list[str]:
    import torch
    from golden import losses

    torch.set_num_threads(1)
    lines, tensors, of_default = [], {}, []
    with tempfile.TemporaryDirectory() as folder:
        losses.fill_cache(Path(folder) / "cache")
        for name in losses.EXPERIMENTS:
            output_dir = Path(folder) / name
            output_dir.mkdir()
            (output_dir / "cache").symlink_to(Path(folder) / "cache")
            found, names = losses.measured(name, output_dir)
            tensors[name] = losses.digest(names)
            of_default = names if name == losses.DEFAULT else of_default
            if write:
                losses.FOLDER.mkdir(exist_ok=True)
                (losses.FOLDER / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
            else:
                lines += losses.differences(name, losses.stored(name), found, exact=True)
    content = {"digests": tensors, "default": of_default}
    if write:
        losses.TENSORS.write_text(json.dumps(content, indent=1) + "\n")
        return []
    return lines + ([] if content == json.loads(losses.TENSORS.read_text()) else ["state_dicts.json differs"])


def _keys(*, write: bool) -> list[str]:
    from golden import keys

    found = keys.keys()
    if write:
        keys.FILE.write_text("\n".join(found) + "\n")
        return []
    return keys.differences(found)


def _hashes(*, write: bool) -> list[str]:
    from golden import hashes

    with tempfile.TemporaryDirectory() as folder:
        found = hashes.measured(Path(folder))
    if write:
        hashes.FILE.write_text(json.dumps(found, indent=1) + "\n")
        return []
    return [] if found == hashes.stored() else [f"stored: {hashes.stored()}", f"now:    {found}"]


def _artefacts(*, write: bool) -> list[str]:
    if write:
        from golden import artefacts

        artefacts.write(Path(__file__).parents[1] / "data" / "table.csv")
    else:
        sys.stdout.write("artefacts are read by tests/golden/test_artefacts.py\n")
    return []


if __name__ == "__main__":
    sys.exit(main())
