"""A plan in the words of the encoder and the diffusion stage."""

from acestep_rpc.telemetry import tenant
from acestep_rpc.v1 import diffusion_pb2, encoder_pb2, tensor_pb2
from orchestrator.plan import Plan
from orchestrator.tasks import AudioToAudio, Edit, Extend, Repaint, Retake, TextToMusic


def encode_request(plan: Plan) -> encoder_pb2.EncodePromptRequest:
    """The prompt of the request; for an edit, of its source."""
    return encoder_pb2.EncodePromptRequest(
        tags=plan.tags,
        lyrics=plan.lyrics,
        negative_tags=plan.negative_tags,
        lyric_options=plan.lyric_options,
        null_condition=plan.null_condition,
        adapters=plan.adapters,
    )


def encode_target_request(plan: Plan, edit: Edit) -> encoder_pb2.EncodePromptRequest:
    """The prompt that an edit leads to."""
    return encoder_pb2.EncodePromptRequest(
        tags=edit.tags,
        lyrics=edit.lyrics,
        negative_tags=edit.negative_tags,
        lyric_options=edit.lyric_options,
        null_condition=plan.null_condition,
        adapters=plan.adapters,
    )


def sample_request(
    plan: Plan,
    conditioning: encoder_pb2.Conditioning,
    source: tensor_pb2.Tensor | None,
    target: encoder_pb2.Conditioning | None,
    preview_window: tuple[float, float] | None = None,
) -> diffusion_pb2.SampleRequest:
    """One request for all songs.

    Args:
        plan: What is made.
        conditioning: Of the prompt.
        source: Latents of the source, for the tasks that have one.
        target: Of the target prompt, for an edit.
        preview_window: Seconds (start, end) of the song that its previews are decoded from; None: it has none.
    """
    request = diffusion_pb2.SampleRequest(
        conditioning=conditioning,
        params=plan.sampling,
        seeds=plan.seeds,
        adapters=plan.adapters,
        priority=plan.priority,
        tenant=tenant.get(),
    )
    if plan.preview is not None and preview_window is not None:
        request.preview_steps.extend(plan.preview.at_steps)
        request.preview_window.start_seconds, request.preview_window.end_seconds = preview_window
    match plan.task:
        case TextToMusic() as task:
            request.text_to_music.duration_seconds = task.duration_seconds
        case Retake() as task:
            request.retake.CopyFrom(
                diffusion_pb2.RetakeSampling(
                    duration_seconds=task.duration_seconds, retake_variances=task.retake_variances, retake_seeds=task.retake_seeds
                )
            )
        case Repaint() as task:
            regions = [diffusion_pb2.SamplingRegion(start_seconds=start, end_seconds=end) for start, end in task.regions]
            request.repaint.CopyFrom(
                diffusion_pb2.RepaintSampling(
                    source=source,
                    regions=regions,
                    retake_variance=task.retake_variance,
                    retake_seeds=task.retake_seeds,
                    feather_seconds=task.feather_seconds,
                    context_seconds=task.context_seconds,
                )
            )
        case Extend() as task:
            request.extend.CopyFrom(
                diffusion_pb2.ExtendSampling(
                    source=source, left_seconds=task.left_seconds, right_seconds=task.right_seconds, retake_seeds=task.retake_seeds
                )
            )
        case Edit() as task:
            request.edit.CopyFrom(
                diffusion_pb2.EditSampling(
                    source=source,
                    target=target,
                    edit_n_min=task.edit_n_min,
                    edit_n_max=task.edit_n_max,
                    edit_n_avg=task.edit_n_avg,
                    retake_seeds=task.retake_seeds,
                )
            )
        case AudioToAudio() as task:
            request.audio_to_audio.CopyFrom(diffusion_pb2.AudioToAudioSampling(source=source, ref_audio_strength=task.ref_audio_strength))
    return request
