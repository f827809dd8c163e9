"""What a checkpoint is best sampled with: `sampling.json` beside its networks, if its makers wrote one.

    {"infer_step": 30, "guidance_scale": 2.0, "cfg_type": "CFG_TYPE_CFG"}

Names are those of SamplingParams. The official checkpoint has no such file: the contract's defaults are made for it.
"""

from pathlib import Path

from google.protobuf import json_format

from acestep_rpc.v1 import sampling_pb2
from diffusion_svc.weights import CheckpointError

FILE = "sampling.json"


def read_sampling_defaults(checkpoint: Path) -> sampling_pb2.SamplingParams:
    """Parameters of the file, the others unset; without a file all are.

    Raises:
        CheckpointError: The file is no JSON, names a parameter that does not exist or a value of another type, or oss_steps, which belong
            to a number of steps.
    """
    path = checkpoint / FILE
    defaults = sampling_pb2.SamplingParams()
    try:
        json_format.Parse(path.read_text(encoding="utf-8"), defaults)
    except FileNotFoundError:
        return defaults
    except (OSError, ValueError, json_format.ParseError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    if defaults.oss_steps:
        raise CheckpointError(f"{path}: oss_steps {list(defaults.oss_steps)}; they cannot be a default")
    return defaults
