# Fills the environment /opt/graft; the Dockerfile calls it.
#   install.sh requirements    what graft depends on, in the locked versions; reads INDEX and TORCH_INDEX
#   install.sh code            graft itself, and the list of all parts
set -eu

environment=/opt/graft
python=$environment/bin/python
pip="/opt/tools/bin/python -m pip --python $python"
# Build tools, too, come in the locked versions.
export PIP_CONSTRAINT="$PWD/requirements.txt" PIP_BUILD_CONSTRAINT="$PWD/requirements.txt"

# The lock holds what development needs, too. So it pins, and pyproject.toml says what is wanted; torch's own
# GPU libraries are pinned by torch.
requirements() {
    grep -E '^(torch|torchvision)==' requirements.txt > torch.txt
    /opt/tools/bin/python -c '
try:
    import tomllib
except ImportError:  # Python 3.10
    from pip._vendor import tomli as tomllib
with open("pyproject.toml", "rb") as file:
    print(*tomllib.load(file)["project"]["dependencies"], sep="\n")' > wanted.txt
    $pip install --index-url "$TORCH_INDEX" --no-deps --requirement torch.txt
    $pip install --index-url "$INDEX" --requirement wanted.txt
    $pip check
    site=$($python -c 'import sysconfig; print(sysconfig.get_path("platlib"))')
    echo "$environment/code" > "$site/graft.pth"  # where `code` puts it
    leave_out "$site"
}

# Tests of the large packages, and headers for a compiler that is not there. Compiled bytecode stays: it is a
# fifth of the image, but on a read-only file system every step would compile it anew, for 14 seconds of CPU.
leave_out() (
    cd "$1"
    rm -rf torch/test torch/bin/test_* torch/include pyarrow/include onnx/backend/test
    for package in matplotlib networkx pandas pyarrow scipy sklearn sympy; do
        find "$package" -type d -name tests -prune -exec rm -rf {} +
    done
)

code() {
    $pip install --index-url "$INDEX" --no-deps --target $environment/code .
    $python -m graft.registry.sbom > $environment/code/sbom.cdx.json
}

"$1"
