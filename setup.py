from setuptools import find_packages, setup

mapped = [
    f"dit_accel.{top}{rest}"
    for top in ("pipelines", "offline_profiles")
    for rest in ("", *("." + name for name in find_packages(top)))
]
setup(packages=find_packages(include=["dit_accel", "dit_accel.*"]) + mapped)
