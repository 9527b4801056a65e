from profiles.kernel import Kernel


def test_a_family_is_one_of_its_own_beside_other_kernels():
    kernels = [Kernel("conv", (8, 8, 8), (8, 8, 8), 3, beside=beside) for beside in ("", "after", "before")]
    assert len({kernel.family for kernel in kernels}) == 1
    assert len({kernel.placed_family for kernel in kernels}) == 3
