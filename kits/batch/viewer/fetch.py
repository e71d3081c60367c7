"""The library that draws the pages, NiiVue: fetched once from npm's registry, checked, kept beside the pages' files.

    python -m kits.batch.viewer.fetch

Nothing is fetched while cases are segmented: a hospital's machine calls nobody by itself.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import sys
import tarfile
import urllib.request
from pathlib import Path

from kits.errors import KitsError, OutputError
from kits.io.atomic import aside

VERSION = "0.69.0"
TARBALL = f"https://registry.npmjs.org/@niivue/niivue/-/niivue-{VERSION}.tgz"
INTEGRITY = "sha512-YMjQvJgD1W2b7DuoxkwlC4VxbrgIePRJ5qyQzXKxi2v2MBVg285P/CIQyg46oDDGDIcaNlbd+MhtO/edMbXJkA=="
"""What ``npm view @niivue/niivue@0.69.0 dist.integrity`` says of the tarball."""
MEMBER = "package/dist/niivue.umd.js"
SHA256 = "47b896b77ec4a5be3ef1949c33ad393b6f45629921f326c279000bcf51bdb4af"
"""Of that file: one that was cut short or changed is told from the right one."""
NAME = "niivue.umd.js"
REMEDY = "fetch it once, with a network: python -m kits.batch.viewer.fetch"


def places() -> tuple[Path, Path]:
    """Where the library may lie: in the package (a wheel or a container brings it), or in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(__file__).parent / "web" / NAME, Path(cache) / "kits-cascade" / f"niivue-{VERSION}.umd.js"


def niivue() -> bytes:
    """NiiVue's script.

    Raises:
        OutputError: It was not fetched yet, or is not the file that it should be; the message tells the remedy.
    """
    for place in places():
        if place.is_file():
            script = place.read_bytes()
            if hashlib.sha256(script).hexdigest() != SHA256:
                raise OutputError(f"{place}: is not NiiVue {VERSION} as published; remove it, then {REMEDY}")
            return script
    raise OutputError(f"The viewer pages need NiiVue {VERSION}, which is not here; {REMEDY}")


def fetch(url: str = TARBALL) -> Path:
    """Fetch the library into the package, or into the user's cache where the package cannot be written to.

    Raises:
        OutputError: It could not be fetched or written, or is not what npm's registry promises.
    """
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            tarball = answer.read()
    except OSError as error:
        raise OutputError(f"{url}: could not be fetched ({error}); check the network and its proxy.") from error
    if "sha512-" + base64.b64encode(hashlib.sha512(tarball).digest()).decode() != INTEGRITY:
        raise OutputError(f"{url}: is not the file that npm's registry promises; try again from another network.")
    with tarfile.open(fileobj=io.BytesIO(tarball)) as archive:
        member = archive.extractfile(MEMBER)
        assert member is not None  # the tarball is known to the bit
        script = member.read()
    package, cache = places()
    for place in (package, cache):
        try:
            with aside(place) as partial:
                partial.write_bytes(script)
        except OutputError:
            if place == cache:
                raise
        else:
            break
    return place


if __name__ == "__main__":
    try:
        if "--if-missing" not in sys.argv or not any(place.is_file() for place in places()):
            print(f"NiiVue {VERSION}: {fetch()}")
    except KitsError as error:
        sys.exit(f"fetch: {error}")
