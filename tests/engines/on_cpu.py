"""Runs a module as `python -m` does, where vLLM shares a processor with the trainer: python on_cpu.py -m MODULE ...

1. vLLM would pack its weights for oneDNN. Colocated it would then find no room for new ones, and a server would keep
   the old packed head if this is tied to the embedding. It multiplies by torch instead. On GPUs nothing is packed.
2. TRL sends weights to a server by NCCL, between GPUs only: here the server reads them from a file. All the rest of
   TRL's client is as it is on GPUs.
"""

import runpy
import sys
import tempfile

from vllm import _custom_ops

import sqlr1  # noqa: F401  (before trl: it says that no run is reported)

_custom_ops._supports_onednn = False  # here, so that it is so in the processes that vLLM starts, too


def send_by_file(client, metadata, named_params):
    """Stands in for `VLLMClient.update_named_params`."""
    from safetensors.torch import save_file

    with tempfile.TemporaryDirectory() as folder:
        weights = {name: weight.detach().clone() for name, weight in named_params}
        assert [(name, list(weight.shape)) for name, weight in weights.items()] == [(n, s) for n, _, s in metadata]
        save_file(weights, f"{folder}/model.safetensors")
        call = {"method": "reload_weights", "kwargs": {"weights_path": folder}}
        client._post(f"{client.base_url}/collective_rpc", json=call)


def main():
    from trl.generation.vllm_client import VLLMClient

    VLLMClient.init_communicator = lambda client, device: None
    VLLMClient.update_named_params = send_by_file
    sys.argv = sys.argv[2:]
    # Not `alter_sys`: processes that vLLM spawns run the file of `__main__` again, and that has to be this one.
    runpy.run_module(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
