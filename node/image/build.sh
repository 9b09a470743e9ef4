#!/usr/bin/env bash
# build.sh BINARY IMAGE: an image of nothing but a node built on this host and the shared libraries it is linked with.
set -euo pipefail
binary=$1 image=$2
here=$(cd "${BASH_SOURCE[0]%/*}/../.." && pwd)

context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT
mkdir -p "$context/root/usr/bin" "$context/empty"
chmod 700 "$context/empty"
strip --strip-debug -o "$context/root/usr/bin/waypost" "$binary"
chmod 755 "$context/root" "$context/root/usr" "$context/root/usr/bin" "$context/root/usr/bin/waypost"
# Each library where the loader looks for it, and the loader itself; what the kernel brings has no path.
ldd "$binary" | grep -o '/[^ ]*' | while read -r library; do
    install -D "$library" "$context/root$library"
done
docker build --quiet --target host --file "$here/Dockerfile" --tag "$image" "$context"
