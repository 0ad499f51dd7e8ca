"""The flags of all modes, and which of them a mode reads."""

from absl import flags
from ml_collections import config_flags

JOB = {"coordinator", "num_processes", "process_id", "distributed"}
CHECKPOINT = {"workdir", "out", "batch_size", "seed", "ema", "trust"} | JOB
SAMPLING = {"steps", "sampler", "spacing", "resample", "clip", "num_samples"} | {
    "variance",
    "correction",
    "guess",
    "guidance",
    "head_guidance",
    "autoguidance",
    "guide",
    "guidance_interval",
}
FLAGS_OF = {
    "train": {"workdir", "trust", "log"} | JOB,
    "sample": CHECKPOINT | SAMPLING | {"given", "trajectory", "interpolate"},
    "read": CHECKPOINT | {"given", "captions"},
    "bound": CHECKPOINT
    | {"clip", "variance", "correction", "guess", "num_examples", "num_times"},
    "evaluate": CHECKPOINT
    | SAMPLING
    | {"draws", "features", "weights", "reference", "baseline", "num_examples"},
    "reference": {"out", "features", "weights", "split", "num_examples", "trust"} | JOB,
    "precompute": {"out", "encoder", "trust"} | JOB,
    "check": {"trust"},
    "preflight": {"topology", "microbatches", "quick", "all_remat", "out", "trust"},
    "report": {"workdir", "trust"},
    "export": {"workdir", "out", "format", "dtype", "license", "push", "trust"}
    | {"with_captions"},
    "compare": {"runs", "out", "trust"},
}
OF_SEVERAL_PROCESSES = ("train", "sample", "precompute")
WITH_CONFIG = ("train", "precompute", "reference", "preflight", "check")

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config: NAME or NAME:PRESET of the shipped ones, or a file."
)
WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Folder of the run: checkpoints, metrics, pictures. But for train also an exported "
    "model, or the name of one that comes with the package, as digits.",
)
LOG = flags.DEFINE_string(
    "log",
    None,
    "train: where scalars and pictures go beside metrics.jsonl and samples/: none, or "
    "some of tensorboard, csv, wandb with commas (tensorboard). Of these wandb alone "
    "sends anything, as its variable WANDB_MODE says.",
)
MODE = flags.DEFINE_enum("mode", "train", list(FLAGS_OF), "What to do.")
OF_JOB = "train, sample, read, bound, evaluate, reference, precompute: "
DISTRIBUTED = flags.DEFINE_bool(
    "distributed",
    False,
    f"{OF_JOB}this is one process of a job, as JAX finds by itself (Cloud TPU, SLURM, "
    "Open MPI, Kubernetes); train and sample can share the work between several.",
)
COORDINATOR = flags.DEFINE_string(
    "coordinator", None, f"{OF_JOB}HOST:PORT of process 0, where those of a job meet."
)
NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", None, f"{OF_JOB}how many there are.", lower_bound=1
)
PROCESS_ID = flags.DEFINE_integer(
    "process_id", None, f"{OF_JOB}which one this is, from 0.", lower_bound=0
)
NUM_SAMPLES = flags.DEFINE_integer(
    "num_samples",
    None,
    "sample: how many (16, or more if more values are given). evaluate: how many of "
    "each draw (5000).",
    lower_bound=1,
)
BATCH_SIZE = flags.DEFINE_integer(
    "batch_size",
    None,
    "sample, read, bound, evaluate: how many at a time (the config's).",
    lower_bound=1,
)
STEPS = flags.DEFINE_integer(
    "steps", None, "sample, evaluate: number of steps (the config's)."
)
SAMPLER = flags.DEFINE_string(
    "sampler",
    None,
    "sample, evaluate: ancestral, ddim, dpmpp_2m, dpmpp_2m_sde, dpmpp_2s or "
    "unipc (the config's).",
)
SPACING = flags.DEFINE_string(
    "spacing",
    None,
    "sample, evaluate: of the steps' times, even (in t) or log_snr (the sampler's "
    "own: log_snr of dpmpp_*, even of the others).",
)
RESAMPLE = flags.DEFINE_integer(
    "resample",
    None,
    "sample, evaluate: how often each step is taken, where pixels are given that the "
    "network does not read (RePaint; the config's, 1).",
    lower_bound=1,
)
VARIANCE = flags.DEFINE_string(
    "variance",
    None,
    "sample, evaluate, bound: of a step where none is learned: measured, beta_tilde or "
    "beta (the config's, or beta_tilde of draws and measured of bounds).",
)
CORRECTION = flags.DEFINE_string(
    "correction",
    None,
    "sample, evaluate, bound: of z_0: measured (read by the best affine map at each t, "
    "found on training data when first needed) or none (the config's).",
)
CLIP = flags.DEFINE_string(
    "clip", None, "sample, evaluate, bound: static, dynamic or none (the config's)."
)
GUESS = flags.DEFINE_string(
    "guess",
    None,
    "sample, evaluate, bound: what a modality is taken to be while it is generated, as "
    "label=held,image_b=mean: held, held_alone (coherent beside what is given), "
    "coherent, fresh, mean or absent (the config's).",
)
GUIDANCE = flags.DEFINE_float(
    "guidance",
    None,
    "sample, evaluate: classifier-free guidance towards what is given; 1: none (the "
    "config's).",
    lower_bound=0,
)
HEAD_GUIDANCE = flags.DEFINE_float(
    "head_guidance",
    None,
    "sample, evaluate: guidance by the heads of what is given; 0: none (the config's).",
    lower_bound=0,
)
AUTOGUIDANCE = flags.DEFINE_float(
    "autoguidance",
    None,
    "sample, evaluate: guidance away from what --guide says; 1: none (the config's).",
    lower_bound=0,
)
GUIDE = flags.DEFINE_string(
    "guide",
    None,
    "sample, evaluate: a smaller or less trained model of the same process and codes: "
    "WORKDIR, or WORKDIR:STEP of one of its checkpoints (the config's).",
)
GUIDANCE_INTERVAL = flags.DEFINE_list(
    "guidance_interval",
    None,
    "sample, evaluate: the part of t / T with guidance, as 0.1,0.8 (the config's).",
)
SEED = flags.DEFINE_integer(
    "seed",
    0,
    "sample, read, bound, evaluate: example i depends only on (seed, i) and the given "
    "values.",
    lower_bound=0,
    upper_bound=2**31 - 1,
)
GIVEN = flags.DEFINE_multi_string(
    "given",
    [],
    "sample: a known value, as label=3, label=3,5, masked_image=FILE_OR_FOLDER (hidden "
    "pixels transparent), image=FILE_OR_FOLDER, image_b=FILE_OR_FOLDER, "
    "representation=FILE.npy or images, text='a red heart' or text=FILE.txt with one "
    "in each line. read: image=FILE_OR_FOLDER",
)
CAPTIONS = flags.DEFINE_string(
    "captions",
    None,
    "read: a file with a text in each line, the nearest of which each image is told "
    "(those of the training set).",
)
TRAJECTORY = flags.DEFINE_bool(
    "trajectory",
    False,
    "sample: writes what each step saw too, of 64 examples at most: trajectory.gif, "
    "a strip as .png, all of it as .npz.",
)
INTERPOLATE = flags.DEFINE_string(
    "interpolate",
    "",
    "sample: --num_samples places on the way from one example to another, and "
    "interpolation.gif: seed=A,B (their noise) or NAME=A,B (a value that is given, the "
    "noise being that of --seed).",
)
OUT = flags.DEFINE_string(
    "out",
    None,
    "sample, read: folder to write (WORKDIR/generated/NNN); evaluate: folder "
    "(WORKDIR/evaluation/STEP); bound: file (WORKDIR/bounds/STEP.json); precompute, "
    "reference: file.npz; preflight: file.json; compare: file.html; export: a new "
    "folder, or for --format=adm a file.safetensors or .npz.",
)
EMA = flags.DEFINE_bool(
    "ema",
    True,
    "sample, read, bound, evaluate: the averaged parameters, or the raw ones.",
)
NUM_EXAMPLES = flags.DEFINE_integer(
    "num_examples",
    None,
    "bound: how many test examples (all). evaluate: so many have their bound (256; 0: "
    "none). reference: how many images (all).",
    lower_bound=0,
)
NUM_TIMES = flags.DEFINE_integer(
    "num_times", None, "bound: at how many of the times 2..T (all).", lower_bound=1
)
ENCODER = flags.DEFINE_string(
    "encoder",
    None,
    "precompute: the folder of a CLIP, or package.module:function, from uint8 "
    "[N, H, W, C] to [N, D]; without it, latents of the config's space are made.",
)
DRAWS = flags.DEFINE_string(
    "draws", "", "evaluate: some of joint, given_A, given_A_B, ... (all subsets)."
)
FEATURES = flags.DEFINE_enum(
    "features",
    "convnet",
    ["convnet", "inception"],
    "evaluate, reference: whose features. convnet: a small classifier, trained once "
    "for each data set; inception: the FID Inception-v3, with --weights.",
)
WEIGHTS = flags.DEFINE_string(
    "weights", "", "evaluate, reference: file of the Inception's weights."
)
REFERENCE = flags.DEFINE_string(
    "reference", "", "evaluate: a file of --mode=reference, or of ADM (computed)."
)
BASELINE = flags.DEFINE_string(
    "baseline", "", "evaluate: metrics.json of another run, to stand beside."
)
SPLIT = flags.DEFINE_enum(
    "split", "train", ["train", "test"], "reference: of which images."
)
TOPOLOGY = flags.DEFINE_string(
    "topology",
    "",
    "preflight: a TPU slice to compile for, as v5e-256 or v5e:16x16; needs libtpu and "
    "no TPU (the devices here).",
)
MICROBATCHES = flags.DEFINE_list(
    "microbatches",
    [],
    "preflight: two numbers of images per device at which memory is measured, as "
    "8,16 (the config's own, at most 8, and twice that).",
)
ALL_REMAT = flags.DEFINE_bool(
    "all_remat",
    False,
    "preflight: look at every --config.unet.remat, and go on with the one that is "
    "fastest at best of those that fit.",
)
QUICK = flags.DEFINE_bool(
    "quick",
    False,
    "preflight: compile with little effort, in a third of the time or less: nearly the "
    "same memory and operations; what is read and written, and so the speed, is not.",
)
FORMAT = flags.DEFINE_string(
    "format",
    "own",
    "export: own (a folder that other modes take as --workdir), hub (the same without "
    "paths of this machine) or adm (the U-Net by guided-diffusion's names).",
)
DTYPE = flags.DEFINE_string(
    "dtype", "float32", "export: of the numbers: float32, float16 or bfloat16."
)
LICENSE = flags.DEFINE_string(
    "license", "", "export: of the model, for its card, as apache-2.0."
)
PUSH = flags.DEFINE_string(
    "push",
    "",
    "export: USER/NAME on the Hugging Face hub, to upload --format=hub to; nothing is "
    "sent without it.",
)
WITH_CAPTIONS = flags.DEFINE_bool(
    "with_captions",
    False,
    "export: with --format=hub, the captions of training data go along, too.",
)
RUNS = flags.DEFINE_list("runs", [], "compare: workdirs, as runs/a,runs/b.")
TRUST = flags.DEFINE_list(
    "trust",
    [],
    "train, sample, read, bound, evaluate, reference, precompute, check, preflight, "
    "report, export, compare: modules of yours that a stored config or a data set may "
    "name, as my_package.depth. Code that they name runs; nothing else does.",
)
