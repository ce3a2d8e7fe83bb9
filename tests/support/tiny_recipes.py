"""Recipes of tiny models, one per model type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.support.tiny_families import PINPOINTS, Built
from tests.support.tiny_types import SIDE, SQUARE, Recipe, build

CLIP = {"size": {"shortest_edge": SIDE}, "crop_size": SQUARE}
TILES = {"size": SQUARE, "min_patches": 1, "max_patches": 4}
PIXELS = {"shortest_edge": 14 * 14, "longest_edge": 56 * 56}
PATCHES = {"patch_size": 7, "merge_size": 2, "size": PIXELS}
TOKEN = {"image_token": "<image>"}
BOTH = {**TOKEN, "video_token": "<video>"}
IDS = {"image_token_id": "<image>", "video_token_id": "<video>"}
MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
LINEAR: dict[str, Any] = {
    "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "layer_types": ["linear_attention", "full_attention", "full_attention"],
}  # fmt: skip
SLIDING = {"sliding_window": 12, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
CALM = {"initializer_range": 0.1}  # random weights of 0.3 overflow some types in half precision
LATENT: dict[str, Any] = {
    "kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8,
    "head_dim": "-", "num_key_value_heads": 4, "first_k_dense_replace": 1, "n_shared_experts": 1,
}  # fmt: skip


def qwen(processor: str, **more: Any) -> Recipe:
    """A model type with that processor, whose pictures are patch grids between two marker tokens."""
    defaults: dict[str, Any] = {
        "images": ("Qwen2VLImageProcessor", {**PATCHES, "temporal_patch_size": 2}),
        "processor": (processor, {"@video_processor": "Qwen2VLVideoProcessor"}),
        "named": BOTH,
        "ids": {**IDS, "vision_start_token_id": "<v>", "vision_end_token_id": "</v>"},
        "special": ("<v>", "</v>"),
        "mark": "<v><image></v>",
        "vision": {"patch_size": 7, "num_position_embeddings": 64, "hidden_size": 32},
    }
    if "settings" in more:
        defaults["processor"] = more.pop("settings")
    return Recipe(**{**defaults, **more})


def glm(processor: str, images: str, **more: Any) -> Recipe:
    """A GLM, whose pictures are patch grids between two marker tokens."""
    marks = {f"{kind}_{end}_token_id": f"<|{word}_of_{kind}|>" for kind in ("image", "video")
             for end, word in (("start", "begin"), ("end", "end"))}  # fmt: skip
    defaults: dict[str, Any] = {
        "images": (images, {**PATCHES, "temporal_patch_size": 2}),
        "processor": (processor, {"@video_processor": "Glm4vVideoProcessor"}),
        "image": "<|image|>",
        "special": ("<|video|>", *marks.values()),
        "mark": "<|begin_of_image|><|image|><|end_of_image|>",
        "ids": {"image_token_id": "<|image|>", "video_token_id": "<|video|>", **marks},
        "text": {"rope_parameters": {**MROPE, "partial_rotary_factor": 1.0}},
        "vision": {"hidden_size": 32, "patch_size": 7, "image_size": 28},
    }
    return Recipe(**{**defaults, **more})


RECIPES: dict[str, Recipe] = {
    "vipllava": Recipe(
        ("CLIPImageProcessor", CLIP),
        ("LlavaProcessor", {"patch_size": 7, "num_additional_image_tokens": 1,
                            "vision_feature_select_strategy": "default"}),
        ids={"image_token_index": "<image>"}, vision={"model_type": "clip_vision_model"},
        top={"vision_feature_layers": [-1, -2]},
    ),
    "aya_vision": Recipe(
        ("GotOcr2ImageProcessor", TILES),
        ("AyaVisionProcessor", {"patch_size": 14, "img_size": SIDE}),
        special=("<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>", "<|IMG_LINE_BREAK|>", "TILE",
                 "TILE_GLOBAL"),
        ids={"image_token_index": "<|IMG_PATCH|>"}, top={"downsample_factor": 2}, text=SLIDING,
    ),
    "cohere2_vision": Recipe(
        ("Cohere2VisionImageProcessor", {**TILES, "patch_size": 2}),
        ("Cohere2VisionProcessor", {}),
        named={**TOKEN, "boi_token": "<boi>", "eoi_token": "<eoi>", "img_line_break_token": "<br>"},
        top={"downsample_factor": 2}, text=SLIDING,
    ),
    "ovis2": Recipe(
        ("Ovis2ImageProcessor", {**TILES, "crop_to_patches": True}),
        ("Ovis2Processor", {"image_token": "<image>", "image_seq_length": 4}),
        special=("<IMG_ATOM>", "<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>"),
        ids={"image_token_id": "<IMG_ATOM>"},
        vision={"vocab_size": 40, "hidden_stride": 2}, top={"hidden_size": 32},
    ),
    "idefics2": Recipe(
        ("Idefics2ImageProcessor", {"size": {"shortest_edge": SIDE, "longest_edge": 2 * SIDE}}),
        ("Idefics2Processor", {"image_seq_len": 4}),
        special=("<end_of_utterance>",),
        named={**TOKEN, "image_boundary_token": "<fake_token_around_image>"},
        parts={"perceiver_config": {"resampler_n_latents": 4, "resampler_depth": 1, "resampler_n_heads": 2,
                                    "resampler_head_dim": 8, "num_key_value_heads": 1, "hidden_size": 32}},
        text={"sliding_window": None}, vision={"image_size": 56, **CALM},
    ),
    "llava_next_video": Recipe(
        ("LlavaNextImageProcessor", {**CLIP, "image_grid_pinpoints": PINPOINTS}),
        ("LlavaNextVideoProcessor", {"@video_processor": "LlavaNextVideoVideoProcessor", "patch_size": 7,
                                     "vision_feature_select_strategy": "default",
                                     "num_additional_image_tokens": 1}),
        named=BOTH, ids={"image_token_index": "<image>", "video_token_index": "<video>"},
        top={"image_grid_pinpoints": PINPOINTS},
    ),
    "qwen3_vl_moe": qwen("Qwen3VLProcessor", text={"rope_parameters": {**MROPE, "mrope_interleaved": True}},
                         vision={"patch_size": 7, "num_position_embeddings": 64, "hidden_size": 32,
                                 "deepstack_visual_indexes": [0, 1]}),
    "qwen3_5": qwen("Qwen3VLProcessor", text={**LINEAR, "rope_parameters": {**MROPE,
                                                                            "mrope_interleaved": True,
                                                                           "partial_rotary_factor": 1.0}}),
    "qwen3_5_moe": qwen("Qwen3VLProcessor", vision={"patch_size": 7, "num_position_embeddings": 64,
                                                    "hidden_size": 32, **CALM},
                        text={**LINEAR, "rope_parameters": {
        **MROPE, "mrope_interleaved": True, "partial_rotary_factor": 1.0}}),
    "glm4v": glm("Glm4vProcessor", "Glm4vImageProcessor"),
    "glm4v_moe": glm("Glm4vProcessor", "Glm4vImageProcessor"),
    "glm46v": glm("Glm46VProcessor", "Glm46VImageProcessor"),
    "glmga": glm("Glm46VProcessor", "GlmgaImageProcessor"),
    "glm_ocr": glm("Glm46VProcessor", "Glm46VImageProcessor"),
    "llama4": Recipe(
        ("Llama4ImageProcessor", {"size": SQUARE, "max_patches": 4}),
        ("Llama4Processor", {"patch_size": 7}),
        image="<|image|>",
        special=("<|image_start|>", "<|image_end|>", "<|patch|>", "<|tile_x_separator|>",
                 "<|tile_y_separator|>"),
        ids={"image_token_index": "<|patch|>"},
        text={"num_local_experts": 2, "num_experts_per_tok": 1, "attention_chunk_size": 512,
              "no_rope_layer_interval": 2, "interleave_moe_layer_step": 2},
        vision={"hidden_size": 32, "intermediate_size": 128, "vision_output_dim": 32,
                "projector_input_dim": 32,
                "projector_output_dim": 32},
    ),
    "mllama": Recipe(
        ("MllamaImageProcessor", {"size": SQUARE, "max_image_tiles": 4}),
        ("MllamaProcessor", {}),
        image="<|image|>", special=("<|python_tag|>",), ids={"image_token_index": "<|image|>"},
        text={"num_hidden_layers": 4, "cross_attention_layers": [1, 3], "dropout": 0.5},
        vision={"num_global_layers": 1, "intermediate_layers_indices": [0], "vision_output_dim": 48,
                "initializer_range": 0.1},
        drawn=("gate",),
    ),
    "aria": Recipe(
        ("AriaImageProcessor", {}),
        ("AriaProcessor", {"size_conversion": {980: 4}}),
        named=TOKEN, ids={"image_token_index": "<image>"}, vision={"image_size": 980, "patch_size": 245},
        top={"projector_patch_to_query_dict": {16: 4}, "vision_feature_layer": -1},
    ),
    "deepseek_vl": Recipe(
        ("DeepseekVLImageProcessor", {"size": SQUARE}),
        ("DeepseekVLProcessor", {"num_image_tokens": 16}),
        named=TOKEN, vision={"vision_use_head": False},
    ),
    "deepseek_vl_hybrid": Recipe(
        ("DeepseekVLHybridImageProcessor", {"size": SQUARE, "high_res_size": SQUARE}),
        ("DeepseekVLHybridProcessor", {"num_image_tokens": 16}),
        named=TOKEN,
        parts={"high_res_vision_config": {"model_type": "sam_vision_model", "hidden_size": 24,
                                          "image_size": SIDE,
                                          "patch_size": 7, "num_hidden_layers": 2, "num_attention_heads": 2,
                                          "mlp_dim": 48, "output_channels": 24, "window_size": 2,
                                          "global_attn_indexes": [1], "num_pos_feats": 12}},
    ),
    "perception_lm": Recipe(
        ("PerceptionLMImageProcessor", {"size": SQUARE, "tile_size": SIDE,
                                       "vision_input_type": "vanilla"}),
        ("PerceptionLMProcessor", {"@video_processor": "PerceptionLMVideoProcessor", "patch_size": 7,
                                   "pooling_ratio": 1}),
        named=BOTH, ids=IDS,
        vision={"architecture": "vit_pe_core_large_patch14_336", "do_pooling": False, "num_classes": 1,
                "global_pool": "map", "initializer_range": 0.1,
                "model_args": {"embed_dim": 24, "img_size": [SIDE, SIDE], "depth": 2, "num_heads": 2,
                               "patch_size": 7, "ref_feat_shape": [4, 4],
                               "use_post_transformer_norm": False}},
    ),
    "minicpmv4_6": Recipe(
        ("MiniCPMV4_6ImageProcessor", {"scale_resolution": 56, "patch_size": 7, "max_slice_nums": 4}),
        ("MiniCPMV4_6Processor", {"@video_processor": "MiniCPMV4_6VideoProcessor"}),
        named={**BOTH, "image_start_token": "<im>", "image_end_token": "</im>", "slice_start_token": "<sl>",
               "slice_end_token": "</sl>", "image_id_start_token": "<id>", "image_id_end_token": "</id>"},
        ids=IDS, text={**LINEAR, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0,
                                                     "partial_rotary_factor": 1.0}},
        vision={"image_size": 56, "insert_layer_id": 0}, top={"insert_layer_id": 0},
    ),
    "molmo2": Recipe(
        ("Molmo2ImageProcessor", {"size": SQUARE, "patch_size": 7, "max_crops": 4, "overlap_margins": [0,
                                                                                                       0]}),
        ("Molmo2Processor", {"@video_processor": "Molmo2VideoProcessor"}),
        image="<|image|>", bos="<|im_start|>",
        special=("<|video|>", "<im_patch>", "<im_col>", "<im_start>", "<low_res_im_start>", "<frame_start>",
                 "<im_end>", "<frame_end>", "<im_low>"),
        ids={"image_patch_id": "<im_patch>", "image_start_token_id": "<im_start>",
             "image_end_token_id": "<im_end>",
             "low_res_image_start_token_id": "<low_res_im_start>", "frame_start_token_id": "<frame_start>",
             "frame_end_token_id": "<frame_end>"},
        text={"additional_vocab_size": 8}, vision={"image_size": [SIDE, SIDE], "num_position_embeddings": 16,
                                                   "head_dim": 12, "num_key_value_heads": 2},
        parts={"adapter_config": {"vision_feature_layer": [-1, -2], "hidden_size": 24,
                                  "num_attention_heads": 2,
                                  "num_key_value_heads": 2, "head_dim": 12, "intermediate_size": 48,
                                  "text_hidden_size": 32}},
    ),
    "kimi_k25": Recipe(
        ("Kimi_K25ImageProcessor", {"size": {"max_height": 56, "max_width": 56}, "patch_size": 7}),
        ("Kimi_K25Processor", {"@video_processor": "Kimi_K25VideoProcessor"}),
        named=BOTH, ids={**IDS, "vision_start_token_id": "<v>", "vision_end_token_id": "</v>"},
        special=("<v>", "</v>"), text=LATENT,
        vision={"hidden_size": 32, "pos_emb_height": 8, "pos_emb_width": 8},
        top={"projection_hidden_size": 32},
    ),
    "lfm2_vl": Recipe(
        ("Lfm2VlImageProcessor", {"encoder_patch_size": 7, "tile_size": 28, "min_image_tokens": 4,
                                  "max_image_tokens": 16, "max_tiles": 4, "size": SQUARE}),
        ("Lfm2VlProcessor", {}),
        named={**TOKEN, "image_start_token": "<im>", "image_end_token": "</im>",
               "image_thumbnail_token": "<th>"},
        special=tuple(f"<|img_row_{r}_col_{c}|>" for r in range(1, 5) for c in range(1, 5)),
        vision={"num_patches": 64, "vision_use_head": False}, top={"projector_hidden_size": 32},
        text={"layer_types": ["conv", "full_attention", "full_attention"], "block_multiple_of": 16},
    ),
    "cohere_compass": Recipe(
        ("CohereCompassImageProcessor", {**PATCHES, "temporal_patch_size": 2}),
        ("CohereCompassProcessor", {"@video_processor": "CohereCompassVideoProcessor"}),
        image="<|IMAGE_PAD|>", special=("<|VIDEO_PAD|>", "<|VISION_START|>", "<|VISION_END|>"),
        mark="<|VISION_START|><|IMAGE_PAD|><|VISION_END|>",
        ids={"image_token_id": "<|IMAGE_PAD|>", "video_token_id": "<|VIDEO_PAD|>",
             "vision_start_token_id": "<|VISION_START|>", "vision_end_token_id": "<|VISION_END|>"},
        vision={"patch_size": 7, "num_position_embeddings": 64, "hidden_size": 32,
                "deepstack_visual_indexes": [0, 1]},
        text={**SLIDING, "rope_parameters": {kind: {"rope_type": "default", "rope_theta": 10000.0}
                                             for kind in ("sliding_attention", "full_attention")}},
    ),
    "gemma3n": Recipe(
        ("SiglipImageProcessor", {"size": {"height": 64, "width": 64}}),
        ("Gemma3nProcessor", {"@feature_extractor": "Gemma3nAudioFeatureExtractor", "image_seq_length": 4}),
        named={**TOKEN, "boi_token": "<boi>", "eoi_token": "<eoi>", "audio_token": "<audio>",
               "boa_token": "<boa>",
               "eoa_token": "<eoa>"},
        vision={"architecture": "resnet10t", "hidden_size": 512, "initializer_range": 0.1},
        top={"vision_soft_tokens_per_image": 4},
        text={**SLIDING, "num_kv_shared_layers": 0, "hidden_size_per_layer_input": 8, "laurel_rank": 8,
              "altup_num_inputs": 2, "activation_sparsity_pattern": [0.0] * 3},
    ),
    "gemma4": Recipe(
        ("Gemma4ImageProcessor", {"patch_size": 4, "max_soft_tokens": 70, "pooling_kernel_size": 2}),
        ("Gemma4Processor", {"@feature_extractor": "Gemma4AudioFeatureExtractor",
                             "@video_processor": "Gemma4VideoProcessor", "image_seq_length": 4}),
        named={**TOKEN, "boi_token": "<boi>", "eoi_token": "<eoi>", "audio_token": "<audio>",
               "boa_token": "<boa>",
               "eoa_token": "<eoa>"}, special=("<|video|>",),
        text={"hidden_size_per_layer_input": 8, **SLIDING, "num_experts": "-", "top_k_experts": "-",
              "moe_intermediate_size": "-"},
        calmed=r"language_model.*q_norm",
        vision={"initializer_range": 0.3, "model_type": "gemma4_vision", "patch_size": 4, "head_dim": 12,
                "num_key_value_heads": 2,
                "pooling_kernel_size": 2, "position_embedding_size": 64},
    ),
    "exaone4_5": qwen("Exaone4_5_Processor", text={**SLIDING, **CALM, "sliding_window_pattern": 2}, ids=IDS,
                      vision={"hidden_size": 32, "num_key_value_heads": 2, "patch_size": 7, "window_size": 28,
                              "fullatt_block_indexes": [1]}),
    "hyperclovax_vision_v2": qwen("HyperCLOVAXVisionV2Processor", ids=IDS,
                                  vision={"hidden_size": 32, "patch_size": 7, "window_size": 28,
                                          "fullatt_block_indexes": [1]}),
    "video_llama_3": qwen("", ids=IDS,
                          images=("VideoLlama3ImageProcessor", {**PATCHES, "temporal_patch_size": 1}),
                          settings=("VideoLlama3Processor",
                                    {"@video_processor": "VideoLlama3VideoProcessor"})),
    "paddleocr_vl": qwen("",
                         images=("PaddleOCRVLImageProcessor", {**PATCHES, "temporal_patch_size": 1}),
                         settings=("PaddleOCRVLProcessor", {}),
                         text={"rope_parameters": MROPE}, vision={"hidden_size": 32, "patch_size": 7}),
    "ernie4_5_vl_moe": qwen("",
                            images=("Ernie4_5_VLMoeImageProcessor", {**PATCHES, "temporal_patch_size": 1}),
                            settings=("Ernie4_5_VLMoeProcessor",
                                       {"@video_processor": "Ernie4_5_VLMoeVideoProcessor"}),
                            named={**BOTH, "image_start_token": "<v>", "image_end_token": "</v>",
                                   "video_start_token": "<w>", "video_end_token": "</w>"},
                            special=("<v>", "</v>", "<w>", "</w>"),
                            ids={**IDS, "image_start_token_id": "<v>", "image_end_token_id": "</v>",
                                 "video_start_token_id": "<w>", "video_end_token_id": "</w>"},
                            text={"moe_intermediate_size": [16, 16],
                                  "rope_parameters": {**MROPE, "mrope_section": [1, 1, 2]},
                                  "mlp_layer_types": ["dense", "sparse", "sparse"]},
                            vision={"hidden_size": 32, "patch_size": 7}),
    "cosmos3_edge": qwen("",
                         images=("Cosmos3EdgeImageProcessor", {**PATCHES, "temporal_patch_size": 1}),
                         settings=("Cosmos3EdgeProcessor", {"@video_processor": "Cosmos3EdgeVideoProcessor"}),
                         text={"rope_parameters": MROPE}, vision={"hidden_size": 32, "patch_size": 7,
                                                                  "num_patches": 64},
                         top={"projector_hidden_size": 32}),
    "lighton_ocr": Recipe(
        ("PixtralImageProcessor", {"size": {"longest_edge": 56}, "patch_size": {"height": 14, "width": 14}}),
        ("LightOnOcrProcessor", {"patch_size": 7, "spatial_merge_size": 2}),
        named={**TOKEN, "image_break_token": "<br>", "image_end_token": "<end>"},
        vision={"image_size": 56, "num_attention_heads": 3, "head_dim": 8},
    ),
    "llava/pixtral": Recipe(
        ("PixtralImageProcessor", {"size": {"longest_edge": 56}, "patch_size": {"height": 7, "width": 7}}),
        ("PixtralProcessor", {"patch_size": 7}), image="[IMG]", special=("[IMG_BREAK]", "[IMG_END]"),
        ids={"image_token_index": "[IMG]"}, vision={"model_type": "pixtral", "image_size": 56,
                                                    "num_attention_heads": 3, "head_dim": 8},
        text={"model_type": "mistral"},
        top={"vision_feature_layer": -1, "vision_feature_select_strategy": "full"},
    ),
    "got_ocr2": Recipe(
        ("GotOcr2ImageProcessor", {"size": {"height": 256, "width": 256}}),
        ("GotOcr2Processor", {}), image="<imgpad>", special=("<img>", "</img>"),
        mark="<img><imgpad></img>", ids={"image_token_index": "<imgpad>"},
        vision={"image_size": 256, "patch_size": 16, "mlp_dim": 48, "output_channels": 16, "window_size": 4,
                "global_attn_indexes": [1]},
    ),
    "janus": Recipe(
        ("JanusImageProcessor", {"size": SQUARE}),
        ("JanusProcessor", {"num_image_tokens": 16}),
        named={**TOKEN, "boi_token": "<boi>", "eoi_token": "<eoi>"},
        vision={"projection_dim": 32, "num_image_tokens": 16},
        parts={"vq_config": {"base_channels": 32, "channel_multiplier": [1], "num_res_blocks": 1,
                             "latent_channels": 32, "num_embeddings": 16, "projection_dim": 32,
                             "image_token_embed_dim": 32, "num_patches": 4}},
    ),
    "fast_vlm": Recipe(
        images=("CLIPImageProcessor", {"size": {"shortest_edge": 64}, "crop_size": {"height": 64,
                                                                                    "width": 64}}),
        text=CALM,
        processor=("LlavaProcessor", {"patch_size": 32, "num_additional_image_tokens": 0,
                            "vision_feature_select_strategy": "full"}),
        ids={"image_token_index": "<image>"},
        vision={"architecture": "resnet10t", "do_pooling": False, "hidden_size": 512,
                "initializer_range": 0.1,
                "model_args": "-"},
    ),
    "qianfan_ocr": Recipe(
        ("GotOcr2ImageProcessor", {**TILES, "crop_to_patches": True}),
        ("QianfanOCRProcessor", {"image_seq_length": 4}),
        image="<IMG_CONTEXT>",
        named={"start_image_token": "<img>", "end_image_token": "</img>",
               "context_image_token": "<IMG_CONTEXT>"},
        ids={"image_token_id": "<IMG_CONTEXT>"},
        vision={"image_size": [SIDE, SIDE], "patch_size": [7, 7]}, top={"image_seq_length": 4},
    ),
    "gemma4_unified": Recipe(
        ("Gemma4UnifiedImageProcessor", {"patch_size": 4, "max_soft_tokens": 70, "pooling_kernel_size": 2}),
        ("Gemma4UnifiedProcessor", {"@feature_extractor": "Gemma4UnifiedAudioFeatureExtractor",
                                    "@video_processor": "Gemma4UnifiedVideoProcessor"}),
        named={**TOKEN, "boi_token": "<boi>", "eoi_token": "<eoi>", "audio_token": "<audio>",
               "boa_token": "<boa>", "eoa_token": "<eoa>"}, special=("<|video|>",),
        text=SLIDING, calmed=r"language_model.*q_norm",
        vision={"initializer_range": 0.3, "model_type": "gemma4_unified_vision", "patch_size": 4,
                "pooling_kernel_size": 2},
    ),
}  # fmt: skip

TYPES: dict[str, Callable[[], Built]] = {
    kind: lambda kind=kind, recipe=recipe: build(kind.partition("/")[0], recipe)
    for kind, recipe in RECIPES.items()
}
