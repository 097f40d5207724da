"""The parameters of each kind of layer, of Caffe master and of the forks netc reads.

See `schema` for the notation. `engine` fields choose an implementation in Caffe and are ignored.
An enumerator that is −1 has no number that all forks agree on.
"""

from __future__ import annotations

from collections.abc import Mapping

_CODE = "<CORNER=1 CENTER_SIZE=2 CORNER_SIZE=3> = CORNER"

# Fields by which DetectionOutput of Intel, TextBoxes++ and others makes other boxes or rows.
OTHER_BOXES = (
    *("clip_before_nms", "clip_after_nms", "decrease_label_id", "use_polygon"),
    "do_state_prediction",
)

# Fields of FlowNet 2's AugmentationParameter, each of which draws a number.
AUGMENTATIONS = (
    *("mirror", "translate", "rotate", "zoom", "squeeze", "translate_x", "translate_y"),
    *("gamma", "brightness", "contrast", "color", "lmult_pow", "lmult_mult", "lmult_add"),
    *("sat_pow", "sat_mult", "sat_add", "col_pow", "col_mult", "col_add", "ladd_pow"),
    *("ladd_mult", "ladd_add", "col_rotate", "fog_amount", "fog_size", "motion_blur_angle"),
    *("motion_blur_size", "shadow_angle", "shadow_distance", "shadow_strength", "noise"),
)
_DRAWN = "; ".join(f"{field} RandomGeneratorParameter" for field in AUGMENTATIONS)

LAYERS: Mapping[str, str] = {
    "TransformationParameter": """
        scale 1 float = 1; mirror 2 bool = false; crop_size 3 uint = 0; mean_file 4 string;
        mean_value 5 float*; force_color 6 bool = false; force_gray 7 bool = false; crop_h 11 uint;
        crop_w 12 uint; resize_param ResizeParameter*; crop_height uint; crop_width uint""",
    "ResizeParameter": """
        prob float = 1; resize_mode <WARP=1 FIT_SMALL_SIZE=2 FIT_LARGE_SIZE_AND_PAD=3>?;
        height uint; width uint; interp_mode <LINEAR=1 AREA=2 NEAREST=3 CUBIC=4 LANCZOS4=5>?*;
        height_scale uint; width_scale uint; pad_mode any; pad_value float*""",
    "LossParameter": """
        ignore_label 1 int; normalize 2 bool = false;
        normalization 3 <FULL VALID BATCH_SIZE NONE> = VALID;
        weight_by_label_freqs bool = false; class_weighting float*""",
    "AccuracyParameter": "top_k 1 uint = 1; axis 2 int = 1; ignore_label 3 int",
    "ArgMaxParameter": "out_max_val 1 bool = false; top_k 2 uint = 1; axis 3 int",
    "ConcatParameter": "concat_dim 1 uint = 1; axis 2 int = 1",
    "BatchNormParameter": """
        use_global_stats 1 bool; moving_average_fraction 2 float = 0.999; eps 3 float = 1e-5;
        scale_bias bool = false; scale_filler FillerParameter; bias_filler FillerParameter;
        engine any""",
    "BiasParameter": "axis 1 int = 1; num_axes 2 int = 1; filler 3 FillerParameter",
    "ContrastiveLossParameter": "margin 1 float = 1; legacy_version 2 bool = false",
    "ConvolutionParameter": """
        num_output 1 uint; bias_term 2 bool = true; pad 3 uint*; kernel_size 4 uint*;
        group 5 uint = 1; stride 6 uint*; weight_filler 7 FillerParameter;
        bias_filler 8 FillerParameter; pad_h 9 uint = 0; pad_w 10 uint = 0; kernel_h 11 uint;
        kernel_w 12 uint; stride_h 13 uint; stride_w 14 uint; engine 15 any; axis 16 int = 1;
        force_nd_im2col 17 bool = false; dilation 18 uint*; kernel_depth uint;
        temporal_stride uint = 1; temporal_pad uint = 0; pad_type uint = 0; pad_t uint = 0;
        pad_l uint = 0; pad_b uint = 0; pad_r uint = 0""",
    "CropParameter": "axis 1 int = 2; offset 2 uint*",
    "DataParameter": """
        source 1 string; scale 2 float = 1; mean_file 3 string; batch_size 4 uint;
        crop_size 5 uint = 0; mirror 6 bool = false; rand_skip 7 uint = 0;
        backend 8 <LEVELDB LMDB>? = LEVELDB; force_encoded_color 9 bool = false;
        prefetch 10 uint = 4; shuffle any; cache any; threads any; parser_threads any""",
    "DropoutParameter": """
        dropout_ratio 1 float = 0.5; scale_train bool = true; sample_weights_test bool = false""",
    "DummyDataParameter": """
        data_filler 1 FillerParameter*; num 2 uint*; channels 3 uint*; height 4 uint*;
        width 5 uint*; shape 6 BlobShape*""",
    "EltwiseParameter": """
        operation 1 <PROD SUM MAX> = SUM; coeff 2 float*; stable_prod_grad 3 bool = true""",
    "ELUParameter": "alpha 1 float = 1",
    "EmbedParameter": """
        num_output 1 uint; input_dim 2 uint; bias_term 3 bool = true;
        weight_filler 4 FillerParameter; bias_filler 5 FillerParameter""",
    "ExpParameter": "base 1 float = -1; scale 2 float = 1; shift 3 float = 0",
    "FlattenParameter": "axis 1 int = 1; end_axis 2 int = -1",
    "HDF5DataParameter": "source 1 string; batch_size 2 uint; shuffle 3 bool = false",
    "HDF5OutputParameter": "file_name 1 string",
    "HingeLossParameter": "norm 1 <L1=1 L2=2> = L1",
    "ImageDataParameter": """
        source 1 string; scale 2 float = 1; mean_file 3 string; batch_size 4 uint = 1;
        crop_size 5 uint = 0; mirror 6 bool = false; rand_skip 7 uint = 0; shuffle 8 bool = false;
        new_height 9 uint = 0; new_width 10 uint = 0; is_color 11 bool = true;
        root_folder 12 string; new_length uint = 1; use_image any; use_temporal_jitter any;
        show_data any; sampling_rate any; label_type any""",
    "DenseImageDataParameter": """
        source 1 string; batch_size 2 uint; rand_skip 3 uint; shuffle 4 bool; new_height 5 uint;
        new_width 6 uint; is_color 7 bool = true; mean_file 8 string; root_folder 9 string;
        mirror 10 bool; crop_width 11 uint; crop_height 12 uint; label_divide_factor any""",
    "InfogainLossParameter": "source 1 string; axis 2 int = 1",
    "InnerProductParameter": """
        num_output 1 uint; bias_term 2 bool = true; weight_filler 3 FillerParameter;
        bias_filler 4 FillerParameter; axis 5 int = 1; transpose 6 bool = false""",
    "InputParameter": "shape 1 BlobShape*",
    "LogParameter": "base 1 float = -1; scale 2 float = 1; shift 3 float = 0",
    "LRNParameter": """
        local_size 1 uint = 5; alpha 2 float = 1; beta 3 float = 0.75;
        norm_region 4 <ACROSS_CHANNELS WITHIN_CHANNEL> = ACROSS_CHANNELS; k 5 float = 1;
        engine 6 any""",
    "MemoryDataParameter": "batch_size 1 uint; channels 2 uint; height 3 uint; width 4 uint",
    "MVNParameter": """
        normalize_variance 1 bool = true; across_channels 2 bool = false; eps 3 float = 1e-9""",
    "ParameterParameter": "shape 1 BlobShape",
    "PoolingParameter": """
        pool 1 <MAX AVE STOCHASTIC AVE_EXC_PAD=-1> = MAX; kernel_size 2 uint;
        stride 3 uint = 1; pad 4 uint = 0;
        kernel_h 5 uint; kernel_w 6 uint; stride_h 7 uint; stride_w 8 uint; pad_h 9 uint = 0;
        pad_w 10 uint = 0; engine 11 any; global_pooling 12 bool = false;
        round_mode 13 <CEIL FLOOR> = CEIL; ceil_mode bool = true; kernel_depth uint;
        temporal_stride uint = 1; temporal_pad uint = 0; pad_type uint = 0; pad_t uint = 0;
        pad_l uint = 0; pad_b uint = 0; pad_r uint = 0""",
    "PowerParameter": "power 1 float = 1; scale 2 float = 1; shift 3 float = 0",
    "PythonParameter": """
        module 1 string; layer 2 string; param_str 3 string; share_in_parallel 4 bool = false""",
    "RecurrentParameter": """
        num_output 1 uint; weight_filler 2 FillerParameter; bias_filler 3 FillerParameter;
        debug_info 4 bool = false; expose_hidden 5 bool = false""",
    "ReductionParameter": """
        operation 1 <SUM=1 ASUM=2 SUMSQ=3 MEAN=4> = SUM; axis 2 int = 0; coeff 3 float = 1""",
    "ReLUParameter": """
        negative_slope 1 float = 0; engine 2 any; relu6 bool = false; maximum float = 0;
        minimum float = 0""",
    "ReshapeParameter": "shape 1 BlobShape; axis 2 int = 0; num_axes 3 int = -1",
    "ScaleParameter": """
        axis 1 int = 1; num_axes 2 int = 1; filler 3 FillerParameter; bias_term 4 bool = false;
        bias_filler 5 FillerParameter""",
    "SigmoidParameter": "engine 1 any",
    "SliceParameter": "slice_dim 1 uint = 1; slice_point 2 uint*; axis 3 int = 1",
    "SoftmaxParameter": "engine 1 any; axis 2 int = 1",
    "TanHParameter": "engine 1 any",
    "TileParameter": "axis 1 int = 1; tiles 2 int",
    "ThresholdParameter": "threshold 1 float = 0",
    "WindowDataParameter": """
        source 1 string; scale 2 float = 1; mean_file 3 string; batch_size 4 uint;
        crop_size 5 uint = 0; mirror 6 bool = false; fg_threshold 7 float = 0.5;
        bg_threshold 8 float = 0.5; fg_fraction 9 float = 0.25; context_pad 10 uint = 0;
        crop_mode 11 string = "warp"; cache_images 12 bool = false; root_folder 13 string""",
    "SPPParameter": """
        pyramid_height 1 uint; pool 2 <MAX AVE STOCHASTIC> = MAX; engine 6 any""",
    "PReLUParameter": "filler 1 FillerParameter; channel_shared 2 bool = false",
    "SwishParameter": "beta 1 float = 1",
    "ClipParameter": "min 1 float; max 2 float",
    # SSD
    "PermuteParameter": "order 1 uint*",
    "NormalizeParameter": """
        across_spatial 1 bool = true; scale_filler 2 FillerParameter;
        channel_shared 3 bool = true; eps 4 float = 1e-10""",
    "NormParameter": 'normalize_type string = "L2"; fix_gradient any; bp_norm any',
    "PriorBoxParameter": """
        min_size 1 float*; max_size 2 float*; aspect_ratio 3 float*; flip 4 bool = true;
        clip 5 bool = false; variance 6 float*; img_size 7 uint; img_h 8 uint; img_w 9 uint;
        step 10 float; step_h 11 float; step_w 12 float; offset 13 float = 0.5; width float*;
        height float*; fixed_size float*; fixed_ratio float*; density float*""",
    "DetectionOutputParameter": f"""
        num_classes 1 uint; share_location 2 bool = true; background_label_id 3 int = 0;
        nms_param 4 NonMaximumSuppressionParameter; save_output_param 5 SaveOutputParameter;
        code_type 6 {_CODE}; keep_top_k 7 int = -1; confidence_threshold 9 float;
        variance_encoded_in_target 8 bool = false; visualize any; visualize_threshold any;
        save_file any; objectness_score float = 0.01; normalized bool = true;
        input_width any; input_height any; {"; ".join(f"{f} bool = false" for f in OTHER_BOXES)}""",
    "NonMaximumSuppressionParameter": "nms_threshold 1 float = 0.3; top_k 2 int; eta 3 float = 1",
    "SaveOutputParameter": """
        output_directory 1 string; output_name_prefix 2 string; output_format 3 string;
        label_map_file 4 string; name_size_file 5 string; num_test_image 6 uint;
        resize_param any""",
    "MultiBoxLossParameter": f"""
        loc_loss_type 1 <L2 SMOOTH_L1> = SMOOTH_L1; conf_loss_type 2 <SOFTMAX LOGISTIC> = SOFTMAX;
        loc_weight 3 float = 1; num_classes 4 uint; share_location 5 bool = true;
        match_type 6 <BIPARTITE PER_PREDICTION> = PER_PREDICTION; overlap_threshold 7 float = 0.5;
        use_prior_for_matching 8 bool = true; background_label_id 9 uint = 0;
        use_difficult_gt 10 bool = true; do_neg_mining 11 bool; neg_pos_ratio 12 float = 3;
        neg_overlap 13 float = 0.5; code_type 14 {_CODE};
        ignore_cross_boundary_bbox 16 bool = false; mining_type any""",
    "AnnotatedDataParameter": "label_map_file 2 string; batch_sampler BatchSampler*; anno_type any",
    "BatchSampler": """
        use_original_image bool = true; sampler Sampler; sample_constraint SampleConstraint;
        max_sample uint; max_trials uint = 100""",
    "Sampler": """
        min_scale float = 1; max_scale float = 1; min_aspect_ratio float = 1;
        max_aspect_ratio float = 1""",
    "SampleConstraint": """
        min_jaccard_overlap float; max_jaccard_overlap float; min_sample_coverage float;
        max_sample_coverage float; min_object_coverage float; max_object_coverage float""",
    # Other forks, text only.
    "BNParameter": """
        scale_filler FillerParameter; shift_filler FillerParameter; bn_mode <LEARN INFERENCE>;
        slope_filler FillerParameter; bias_filler FillerParameter; momentum float = 0.9;
        eps float = 1e-5; frozen bool = false; engine any; var_eps float = 1e-10;
        moving_average bool = false; decay float = 0.95""",
    "InterpParameter": """
        height int = 0; width int = 0; zoom_factor int = 1; shrink_factor int = 1;
        pad_beg int = 0; pad_end int = 0; use_blob_size bool = false""",
    "UpsampleParameter": """
        scale uint = 2; scale_h uint; scale_w uint; pad_out_h bool = false;
        pad_out_w bool = false; upsample_h uint; upsample_w uint; stride uint; stride_h uint;
        stride_w uint""",
    "ShuffleChannelParameter": "group uint = 1",
    "PixelShuffleParameter": "upscale_factor uint",
    "TransposeParameter": "dim int*",
    "ReverseParameter": "axis int*",
    "HardSigmoidParameter": "alpha float = 0.2; beta float = 0.5",
    "ActivationParameter": "engine any",
    "ContinuationIndicatorParameter": "time_step uint; batch_size uint",
    "LstmParameter": """
        num_output uint; clipping_threshold any; weight_filler FillerParameter;
        bias_filler FillerParameter; batch_size uint""",
    "ROIPoolingParameter": """
        pooled_h uint; pooled_w uint; spatial_scale float = 1; pad_ratio float = 0""",
    "PSROIPoolingParameter": "spatial_scale float; output_dim int; group_size int",
    "ProposalParameter": """
        feat_stride uint = 16; base_size uint = 16; min_size uint = 16; ratio float*; scale float*;
        pre_nms_topn uint = 6000; post_nms_topn uint = 300; nms_thresh float = 0.7""",
    "SimplerNMSParameter": """
        max_num_proposals any; cls_threshold any; iou_threshold float = 0.7;
        min_bbox_size uint = 16; feat_stride uint = 16; pre_nms_topn uint = 6000;
        post_nms_topn uint = 300; scale float*""",
    "SmoothL1LossParameter": "sigma float = 1",
    "VideoDataParameter": """
        source string; batch_size uint = 1; new_length uint = 1; new_height uint;
        new_width uint; root_folder string; sampling_rate uint = 1; use_image any; show_data any;
        use_temporal_jitter any; shuffle any; use_level any; video_type any;
        num_segments uint = 1; modality <RGB FLOW> = FLOW; name_pattern any;
        grayscale bool = false; encoded any; rand_skip any""",
    "ReorgParameter": "stride uint; reverse bool = false; flatten bool = false",
    "Yolov3DetectionOutputParameter": """
        num_classes uint = 20; num_box uint = 3; confidence_threshold float = 0.01;
        nms_threshold float = 0.45; biases float*; anchors_scale uint*; mask uint*;
        mask_group_num uint = 2""",
    "YoloDetectionOutputParameter": """
        side any; num_classes uint = 20; num_box uint = 5; coords uint = 4;
        confidence_threshold float = 0.01; nms_threshold float = 0.45; biases float*;
        label_map_file any""",
    "RegionYoloParameter": """
        coords int = 4; classes int = 20; num int = 1; do_softmax bool = true; anchors any*;
        mask int*""",
    "RegionParameter": "coords int; classes int; num int",
    "CTCDecoderParameter": "blank_index int = -1; ctc_merge_repeated bool = true",
    "CReLUParameter": "negative_slope float = 0; concat_axis int = 1; engine any",
    "CropCenterParameter": "crop_size uint*",
    "GRNParameter": "bias float = 1e-7; dummy_backward any",
    "SpatialTransformerParameter": """
        transform_type string = "affine"; sampler_type string = "bilinear"; output_H int;
        output_W int; to_compute_dU any; compute_dU any; theta_1_1 double; theta_1_2 double;
        theta_1_3 double; theta_2_1 double; theta_2_2 double; theta_2_3 double""",
    "GroupNormParameter": "eps float = 1e-5; group_num int; group_ratio int; group any",
    "SqueezeParameter": "axis int*",
    "PadParameter": "paddings uint*; constant_values float = 0",
    "ResizeNearestNeighborParameter": """
        align_corners bool = false; output_height uint; output_width uint;
        data_format string = "NHWC"; scale_height float = 1; scale_width float = 1;
        half_pixel_centers bool = false; half_pixel_onnx bool = false""",
    "ResizeBilinearParameter": """
        align_corners bool = false; output_height uint; output_width uint;
        data_format string = "NHWC"; scale_height float = 1; scale_width float = 1;
        half_pixel_centers bool = false; pytorch_half_pixel bool = false; output_depth any;
        scale_depth any; input_scale any; output_scale double = 1; input_zero_point any;
        output_zero_point int = 0; saturate <None Signed Unsigned Signed_8bit Unsigned_8bit>;
        quantize_method any; factor float; height uint; width uint""",
    # FlowNet 2: R-FCN and others have its numbers in LayerParameter, 148 to 161, for other fields.
    "CorrelationParameter": """
        pad uint = 0; kernel_size uint; max_displacement uint; stride_1 uint = 1;
        stride_2 uint = 1; single_direction int = 0; do_abs bool = false;
        correlation_type <MULTIPLY SUBTRACT> = MULTIPLY""",
    "FlowWarpParameter": "fill_value <ZERO=1 NOT_A_NUMBER=2> = ZERO",
    "ResampleParameter": """
        antialias bool = true; width uint; height uint;
        type <NEAREST=1 LINEAR=2 CUBIC=3 AREA=4> = LINEAR; factor any""",
    "DownsampleParameter": "top_height uint; top_width uint",
    "AccumParameter": """
        top_height uint = 0; top_width uint = 0; size_divisible_by uint = 0;
        have_reference bool = false""",
    "MeanParameter": """
        operation <ADD=1 SUBTRACT=4>; file string; value float*; mean_scale float = 1;
        input_scale float = 1; output_scale float = 1""",
    "AugmentationParameter": f"""
        crop_width uint; crop_height uint; augment_during_test bool = false;
        recompute_mean uint = 0; mean_per_pixel bool = true; mean float*; write_augmented any;
        max_multiplier any; write_mean any; mode any; bottomwidth any; bottomheight any; num any;
        chromatic_eigvec any*; {_DRAWN}""",
    "RandomGeneratorParameter": """
        rand_type any; exp any; mean any; spread any; prob any; apply_schedule any;
        discretize any; multiplier any""",
}
