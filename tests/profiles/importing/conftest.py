"""Files in the forms that other tools write."""

import pytest

# TFLite's benchmark_model, made by hand after tensorflow/core/util/stats_calculator.cc and a published run's output.
TFLITE_PRINTED = """\
INFO: STARTING!
INFO: Log parameter values verbosely: [0]
INFO: Num threads: [1]
INFO: Graph: [/data/local/tmp/mobilenet_v1_1.0_224.tflite]
INFO: #threads used for CPU inference: [1]
INFO: Loaded model /data/local/tmp/mobilenet_v1_1.0_224.tflite
INFO: Running benchmark for at least 1 iterations and at least 0.5 seconds but terminate if exceeding 150 seconds.
INFO: count=12 first=48210 curr=41870 min=41500 max=48210 avg=42400.5 std=1800

INFO: Running benchmark for at least 50 iterations and at least 1 seconds but terminate if exceeding 150 seconds.
INFO: count=50 first=41900 curr=41700 min=41400 max=43900 avg=41812.3 std=402

INFO: Inference timings in us: Init: 17187, First inference: 48210, Warmup (avg): 42400.5, Inference (avg): 41812.3
"""
TFLITE_CSV = """\
Profiling Info for Benchmark Initialization:
============================== Run Order ==============================
node type, start, first, avg_ms, %, cdf%, mem KB, times called, name
AllocateTensors, 0, 0.029, 0.029, 100%, 100%, 0, 1, AllocateTensors/0

Timings (microseconds): count=1 curr=29
Memory (bytes): count=0
1 nodes observed


Operator-wise Profiling Info for Regular Benchmark Runs:
============================== Run Order ==============================
node type, start, first, avg_ms, %, cdf%, mem KB, times called, name
CONV_2D, 0, 0.11, 0.0930388, 44.8994%, 44.8994%, 0, 1, [net/conv2d/Conv2D]:0
AVERAGE_POOL_2D, 0.123291, 0.026, 0.0272269, 13.1394%, 72.559%, 0, 1, [net/pool/AvgPool]:1

============================== Top by Computation Time ==============================
node type, start, first, avg_ms, %, cdf%, mem KB, times called, name
CONV_2D, 0, 0.11, 0.0930388, 44.8994%, 44.8994%, 0, 1, [net/conv2d/Conv2D]:0
AVERAGE_POOL_2D, 0.123291, 0.026, 0.0272269, 13.1394%, 72.559%, 0, 1, [net/pool/AvgPool]:1

Number of nodes executed: 2
============================== Summary by node type ==============================
node type, count, avg_ms, avg %, cdf %, mem KB, times called
CONV_2D, 1, 0.093, 77.5%, 77.5%, 0, 1
AVERAGE_POOL_2D, 1, 0.027, 22.5%, 100%, 0, 1

Timings (microseconds): count=50 first=136 curr=121 min=119 max=140 avg=120.4 std=3
Memory (bytes): count=0
2 nodes observed
"""
# onnxruntime_perf_test's result file, by hand after onnxruntime/test/perftest/performance_runner.h.
PERF_TEST = (
    "".join(
        f"mobilenetv2-12,{seconds},104857600,99,{run}\n"
        for run, seconds in enumerate(
            (0.09, 0.0201, 0.0203, 0.0202, 0.0199, 0.0204, 0.02, 0.0205, 0.0202, 0.0206, 0.0231)
        )
    )
    + "\nMin Latency is 0.0199sec\nMax Latency is 0.09sec\nP50 Latency is 0.0203sec\nP90 Latency is 0.0231sec\n"
)
# PaddleSlim's table after its document on the form, Paddle Lite's from its own.
SLIM = """\
Snapdragon 855,Paddle Lite 2.6,2020-02-02
conv2d,1,1,1,3,224,224,32,1,3,1,2,1\t2.9
depthwise_conv2d,1,1,1,32,112,112,32,32,3,1,1,1\t1.4
relu,1,32,112,112\t0.21
eltwise,1,24,56,56\t0.07
pooling,1,1,1024,7,7,7,0,1,0,2\t0.03
pooling,0,1,64,56,56,3,1,2,0,1\t0.16
softmax,1,1,1000,1,1\t0.02
conv2d,1,1,1,3,224\t2.9
"""
LITE = """\
dev_info           core_num thread_num\tpower_mode\tcore0 arch\tcore1 arch
Hisilicon Kirin980    8       1         \t0         ARM_A55  \tARM_A55

op_name   \tinput_dims\t   output_dims\t   param_info     min_latency(ms)\t  max_latency(ms)\t avg_latency(ms)
"""
_CONV = "ch_out=48, stride=1, pad=0, kernel=1x1, group=1, dilation=1, flag_bias=0, flag_act=0, dtype="
_POOL = "stride=2, pad=0, kernel=2x2, ceil_mode=0, flag_global=0, exclusive=0, pooling_type=avg, dtype=float"
_NORM = "epsilon=1e-4f, momentum=0.9f, dtype=float"
for _cells in (
    ("conv      ", "[1 96 112 112]", "[1 48 112 112]", f"({_CONV}float) ", "3.469     ", "4.111     ", "3.52088   "),
    ("conv      ", "[1 96 112 112]", "[1 48 112 112]", f"({_CONV}int8_int8) ", "1.469     ", "2.111     ", "1.52"),
    (
        "fc        ",
        "[1 64]   ",
        "[64 1000] ",
        "(param_dim=64x1000, flag_bias=1, dtype=float)  0.135     ",
        "0.176 ",
        "0.13779",
    ),
    ("batchnorm ", "[1 8 64 64]", "[1 8 64 64]", f"({_NORM})    0.014     ", "0.178     ", "0.01679   "),
    ("pooling   ", "[1 8 64 64]", "[1 8 32 32]", f"({_POOL}) ", "0.009     ", "0.011     ", "0.00983   "),
    ("activation", "[1 8 64 64]", "[1 8 64 64]", "(act_type=relu, dtype=float)  0.01      ", "0.036     ", "0.01103"),
):
    LITE += "\t".join(_cells) + "\n"
# An Inspector's table, by hand after the columns that executorch 1.4.1 writes.
_ET_HEADER = "\tevent_block_name\tevent_name\tp10 (ms)\tp50 (ms)\tp90 (ms)\tavg (ms)\tmin (ms)\tmax (ms)\top_types\t"
ETDUMP = (
    _ET_HEADER + "is_delegated_op\tdelegate_backend_name\tstart_time\n"
    "0\tDefault\tMethod::init\t0.03\t0.03\t0.03\t0.03\t0.03\t0.03\t[]\tFalse\t\t[1]\n"
    "1\tExecute\tnative_call_convolution.out\t0.95\t0.958\t0.97\t0.96\t0.95\t0.98\t['aten.convolution.default']\tFalse\t\t[2]\n"
    "2\tExecute\tMethod::execute\t41.1\t41.6\t42.9\t41.8\t41.0\t43.2\t[]\tFalse\t\t[3]\n"
)


@pytest.fixture
def forms() -> dict[str, str]:
    """A file of each form by its name; ONNX Runtime's profiler is run by its own test."""
    return {
        "tflite printed": TFLITE_PRINTED,
        "tflite csv": TFLITE_CSV,
        "perf test": PERF_TEST,
        "slim": SLIM,
        "lite": LITE,
        "etdump": ETDUMP,
    }
