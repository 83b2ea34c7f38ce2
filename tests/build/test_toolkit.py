"""How the compilers are found: CUDA_HOME before PATH, and through a script that starts nvcc from elsewhere."""

import pytest

# Answers as nvcc does, from the folder in which it really is.
NVCC = r"""#!/bin/sh
bin=$(cd "$(dirname "$0")" && pwd)
case "$1" in
  --dryrun) printf '#$ %s\n' "TOP=$bin/.." "INCLUDES=\"-I$bin/../include\"" "LIBRARIES=  \"-L$bin/../lib64\"" ;;
  --version) echo 'Cuda compilation tools, release 12.4, V12.4.131' ;;
  --list-gpu-arch) printf 'compute_%s\n' 80 90 ;;
esac
"""


def write_program(path, text):
    path.parent.mkdir(parents=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def make_toolkit(tmp_path):
    """Make a toolkit of which nothing but a talking nvcc exists, and return its root."""
    return lambda name: write_program(tmp_path / name / "bin" / "nvcc", NVCC).parents[1]


@pytest.fixture
def toolkit(setup_py, make_toolkit):
    return setup_py.find_toolkit({"CUDA_HOME": str(make_toolkit("cuda")), "PATH": ""})[0]


def test_shim_on_path_leads_to_the_toolkit_it_starts(setup_py, make_toolkit, tmp_path):
    root = make_toolkit("cuda")
    shim = write_program(tmp_path / "shims" / "nvcc", f'#!/bin/sh\nexec {root}/bin/nvcc "$@"\n')
    toolkit, _ = setup_py.find_toolkit({"PATH": f"{shim.parent}:/usr/bin:/bin"})
    assert toolkit.nvcc == str(shim)
    assert toolkit.root == str(root)
    assert toolkit.version == "12.4"
    assert toolkit.library_flags == [f"-L{root}/bin/../lib64"]


def test_cuda_home_comes_before_path(setup_py, make_toolkit):
    home, other = make_toolkit("home"), make_toolkit("other")
    toolkit, _ = setup_py.find_toolkit({"CUDA_HOME": str(home), "PATH": f"{other}/bin"})
    assert toolkit.root == str(home)


def test_path_is_searched_when_cuda_home_has_no_nvcc(setup_py, make_toolkit, tmp_path):
    other = make_toolkit("other")
    toolkit, _ = setup_py.find_toolkit({"CUDA_HOME": str(tmp_path / "empty"), "PATH": f"{other}/bin"})
    assert toolkit.root == str(other)


def test_nvcc_that_does_not_answer_is_refused(setup_py, tmp_path):
    silent = write_program(tmp_path / "bin" / "nvcc", "#!/bin/sh\n")
    with pytest.raises(SystemExit, match=f"{silent} does not answer --dryrun"):
        setup_py.find_toolkit({"PATH": str(silent.parent)})


def test_cuda_is_left_out_when_told_so(setup_py, make_toolkit):
    env = {"CUDA_HOME": str(make_toolkit("cuda")), "FASTGAN_CUDA": "0"}
    assert setup_py.choose_toolkit(env) == (None, "FASTGAN_CUDA=0")


@pytest.mark.parametrize(
    ("asked", "archs"),
    [("", ["90"]), ("all", ["80", "90"]), ("80", ["80"]), ("90;80", ["80", "90"]), ("80, 90", ["80", "90"])],
)
def test_architectures(setup_py, toolkit, asked, archs):
    """This nvcc is too old for sm_100, which is then left out of all."""
    assert setup_py.choose_cuda_archs({"FASTGAN_CUDA_ARCHS": asked, "PATH": ""}, toolkit)[0] == archs


@pytest.mark.parametrize(
    ("said", "archs"),
    [("8.0", ["80"]), ("9.0\n8.0\n9.0", ["80", "90"]), ("12.0", ["90"]), ("7.5", ["90"]), ("[Not Supported]", ["90"])],
)
def test_without_being_asked_it_builds_for_the_gpus_that_are_here(setup_py, toolkit, tmp_path, said, archs):
    """Of one that nvcc is too old for, the newest that it knows; none that the kernels are not for."""
    smi = write_program(tmp_path / "smi" / "nvidia-smi", f"#!/bin/sh\nprintf '%s\\n' '{said}'\n")
    found, why = setup_py.choose_cuda_archs({"PATH": f"{smi.parent}:/bin:/usr/bin"}, toolkit)
    assert found == archs
    assert why == ("no GPU is here" if said.startswith(("7", "[")) else "the GPU that is here")


def test_architecture_that_nvcc_does_not_know_is_refused(setup_py, toolkit):
    with pytest.raises(SystemExit, match=r"FASTGAN_CUDA_ARCHS=90;100, but nvcc 12\.4 takes 80, 90"):
        setup_py.choose_cuda_archs({"FASTGAN_CUDA_ARCHS": "90;100"}, toolkit)


def test_nvcc_that_knows_none_of_the_architectures_is_refused(setup_py, toolkit, monkeypatch):
    monkeypatch.setattr(setup_py, "CUDA_ARCHS", ("100",))
    with pytest.raises(SystemExit, match=r"FASTGAN_CUDA_ARCHS=100, but nvcc 12\.4 takes 80, 90"):
        setup_py.choose_cuda_archs({"FASTGAN_CUDA_ARCHS": "all"}, toolkit)


def test_missing_python_headers_are_named(setup_py, monkeypatch, tmp_path):
    monkeypatch.setattr(setup_py.sysconfig, "get_path", lambda _: str(tmp_path))
    with pytest.raises(SystemExit, match=f"no Python.h in {tmp_path}: install the development files"):
        setup_py.make_plan({}, ["c++"], None)


def test_cuda_build_has_machine_code_for_each_and_ptx_for_the_newest(setup_py, toolkit, tmp_path):
    plan = setup_py.Plan(tmp_path, ["c++"], [], [], {"base": []}, toolkit, ("80", "90"))
    script = setup_py.ninja_file(plan)
    for target in ("arch=compute_80,code=sm_80", "arch=compute_90,code=sm_90", "arch=compute_90,code=compute_90"):
        assert f"-gencode={target}" in script
    assert "code=compute_80" not in script
    assert "-DFASTGAN_WITH_CUDA" in script
    assert "-lcudart_static" in script


@pytest.mark.parametrize(
    ("env", "command"),
    [
        ({"CXX": "sh -x"}, ["sh", "-x"]),
        ({"CXX": "/nowhere/c++"}, None),
        ({"CC": "/nowhere/gcc-12"}, None),
        ({"PATH": ""}, None),
    ],
)
def test_cxx_compiler(setup_py, env, command):
    assert setup_py.find_cxx({"PATH": "/usr/bin:/bin"} | env)[0] == command


@pytest.mark.parametrize(
    ("cc", "cxx"), [("gcc", "g++"), ("/opt/bin/gcc-12", "/opt/bin/g++-12"), ("clang-15", "clang++-15"), ("cc", "c++")]
)
def test_cxx_compiler_is_the_sibling_of_cc(setup_py, cc, cxx):
    assert setup_py.find_cxx({"CC": cc, "PATH": ""})[1] == [cxx]
