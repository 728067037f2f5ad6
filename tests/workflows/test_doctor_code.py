"""The doctor says which code runs, and names what in the current directory has the name of another module."""

from doctor_cases import machine

from workflows.doctor.code import own_code


def test_it_says_the_folder_and_the_contents_of_all_three_packages(tmp_path):
    found = own_code(machine(tmp_path, directory=tmp_path))
    assert found.status == "ok" and found.found.startswith("driver and workers run /")
    assert all(f"{name} " in found.found for name in ("taba_core", "cluster", "workflows"))


def test_it_names_files_and_packages_that_shadow_and_no_others(tmp_path):
    for name in ("random.py", "cluster.py", "notes.py", "torch.txt"):
        (tmp_path / name).write_text("")
    for name in ("numpy", "workflows"):
        (tmp_path / name).mkdir()
    (tmp_path / "numpy" / "__init__.py").write_text("")
    found = own_code(machine(tmp_path, directory=tmp_path))
    assert found.status == "warn"
    shown = ", ".join(str(tmp_path / name) for name in ("cluster.py", "numpy", "random.py"))
    assert f"; {shown} would hide a module of the same name" in found.found
