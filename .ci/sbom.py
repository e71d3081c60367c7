"""List what the container it runs in is made of, as CycloneDX 1.5 JSON: python sbom.py VERSION

Python packages tell of themselves, Debian's through dpkg and their copyright files. Standard library only.
"""

import hashlib
import json
import re
import subprocess
import sys
from importlib.metadata import Distribution, distributions
from pathlib import Path


def component(kind: str, name: str, version: str, licences: list[str]) -> dict[str, object]:
    return {
        "type": "library",
        "name": name,
        "version": version,
        "purl": f"pkg:{kind}/{re.sub('[-_.]+', '-', name).lower() if kind == 'pypi' else name}@{version}",
        "licenses": [{"license": {"name": licence}} for licence in licences or ["not stated"]],
    }


def python_licences(package: Distribution) -> list[str]:
    """The licence expression, else the classifiers, else the first line of the free text."""
    told = package.metadata
    if expression := told.get("License-Expression"):
        return [expression]
    classifiers = [c.rsplit(" :: ", 1)[-1] for c in told.get_all("Classifier", []) if c.startswith("License ::")]
    return classifiers or [line.strip() for line in told.get("License", "").splitlines()[:1] if line.strip()]


def debian_licences(package: str) -> list[str]:
    """The short names in a machine-readable copyright file."""
    path = Path("/usr/share/doc", package, "copyright")
    text = path.read_text(errors="replace") if path.exists() else ""
    return sorted(set(re.findall(r"^License: *(\S.*?) *$", text, re.MULTILINE)))


def weight_file(path: Path) -> dict[str, object]:
    """A network; safetensors begin with the length of a JSON header, in which ours state their licence."""
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return {
        "type": "machine-learning-model",
        "name": path.stem,
        "hashes": [{"alg": "SHA-256", "content": hashlib.sha256(content).hexdigest()}],
        "licenses": [{"license": {"name": header["__metadata__"]["licence"]}}],
    }


def main() -> None:
    python = {
        d.metadata["Name"]: component("pypi", d.metadata["Name"], d.version, python_licences(d))
        for d in distributions()
    }
    listing = subprocess.run(["dpkg-query", "-W", "-f", "${Package} ${Version}\n"], capture_output=True, text=True)
    debian = [
        component("deb/debian", name, version, debian_licences(name))
        for name, version in (line.split() for line in listing.stdout.splitlines())
    ]
    weights = [weight_file(path) for path in sorted(Path("weights").glob("*.safetensors"))]
    bill = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {"type": "container", "name": "kits-cascade", "version": sys.argv[1]}},
        "components": [*(python[name] for name in sorted(python)), *debian, *weights],
    }
    json.dump(bill, sys.stdout, indent=1)


main()
