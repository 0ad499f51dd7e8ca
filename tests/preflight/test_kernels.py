"""Operations of kernels, of programs as XLA has written them for a v5e."""

from mt_diffusion.preflight import kernels

ARRAY = "bf16[4,6,1024,64]{3,2,1,0}"
NUM = 4 * 6 * 1024 * 1024 * 64  # multiplications of one product
CALL = (
    "  %splash_mha_{name} = (f32[4,512,128]{{2,1,0:T(8,128)}}, {array}) custom-call("
    '%copy-done.1, %broadcast.2, %fusion.1), custom_call_target="tpu_custom_call", '
    "operand_layout_constraints={{s8[1,2,2]{{2,1,0}}, s8[1,2,2]{{2,1,0}}, {array}, "
    "{key}, {key}{more}}}, frontend_attributes={{kernel_metadata={{}}}}"
)


def test_each_product_of_a_kernel_counts():
    same = {"array": ARRAY, "key": ARRAY}
    forward = CALL.format(name="fwd_residuals.1", more="", **same)
    assert kernels.flops(forward) == 2 * 2 * NUM
    more = f", f32[4,6,8,1024]{{3,2,1,0}}, {ARRAY}"
    back = CALL.format(name="dkv_no_residuals.1", more=more, **same)
    assert kernels.flops(f"{forward}\n{back}\n") == (2 + 5) * 2 * NUM


def test_there_may_be_fewer_keys_than_queries():
    few = "bf16[4,6,256,64]{3,2,1,0}"
    call = CALL.format(name="fwd_no_residuals", array=ARRAY, key=few, more="")
    assert kernels.flops(call) == 2 * 2 * NUM / 4


def test_nothing_else_counts():
    text = '%a = f32[4,4] custom-call(%b), custom_call_target="tpu_custom_call"\n'
    assert kernels.flops(text + "%dot.1 = f32[4,4] dot(%a, %b)") == 0
