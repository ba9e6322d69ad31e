"""``avfusion weights``: published weights, fetched and verified."""

import argparse
from pathlib import Path

DESCRIPTION = """\
Without a name: list the published files of weights that are known, and whether they are here. With names:
download them, resumed and verified. In a dataset's file `weights: published:NAME` means such a file.
vggish_tensorflow is converted by `--convert`, which needs TensorFlow (envs/tensorflow.yaml)."""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the sub-command."""
    parser = subparsers.add_parser(
        "weights",
        help="published weights, e.g. avfusion weights i3d_rgb vggish",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("names", nargs="*", metavar="NAME", help="file to download")
    add("--folder", type=Path, default=Path("resources/weights"), help="where (default: %(default)s)")
    add(
        "--convert",
        type=Path,
        metavar="CHECKPOINT",
        help="vggish_model.ckpt to turn into vggish_model.pt beside it",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """List, download or convert.

    Raises:
        InputError: unknown name, or a file that cannot be had or is another one.
    """
    from avfusion.backbones.published import FILES, PREFIX, fetch, local_path, published

    if args.convert is not None:
        from avfusion.backbones.convert import convert_vggish

        output = local_path(f"{PREFIX}vggish_tensorflow", args.convert.parent)
        convert_vggish(args.convert, output)
        print(f"wrote {output}")
    for name in args.names:
        published(name)
    for name in args.names:
        print(f"{name}: {fetch(name, args.folder)}")
    if args.names or args.convert is not None:
        return 0
    for name, file in FILES.items():
        path = args.folder / file.name
        problem = file.expected.problem(path) if path.exists() else f"not in {args.folder}"
        print(f"{name}: {file.what}\n  {path}: {problem or 'here, and right'}\n  {file.url}")
    return 0
