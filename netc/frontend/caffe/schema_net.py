"""The messages around layers: net, solver, state, blobs and layers of all three versions.

See `schema` for the notation.
"""

from __future__ import annotations

from collections.abc import Mapping

_V1_TYPES = (
    "<NONE=0 ABSVAL=35 ACCURACY=1 ARGMAX=30 BNLL=2 CONCAT=3 CONTRASTIVE_LOSS=37 CONVOLUTION=4"
    " DATA=5 DECONVOLUTION=39 DROPOUT=6 DUMMY_DATA=32 EUCLIDEAN_LOSS=7 ELTWISE=25 EXP=38"
    " FLATTEN=8 HDF5_DATA=9 HDF5_OUTPUT=10 HINGE_LOSS=28 IM2COL=11 IMAGE_DATA=12"
    " INFOGAIN_LOSS=13 INNER_PRODUCT=14 LRN=15 MEMORY_DATA=29 MULTINOMIAL_LOGISTIC_LOSS=16"
    " MVN=34 POOLING=17 POWER=26 RELU=18 SIGMOID=19 SIGMOID_CROSS_ENTROPY_LOSS=27 SILENCE=36"
    " SOFTMAX=20 SOFTMAX_LOSS=21 SPLIT=22 SLICE=33 TANH=23 WINDOW_DATA=24 THRESHOLD=31>?"
)

NET: Mapping[str, str] = {
    "BlobShape": "dim 1 int*",
    "BlobProto": """
        num 1 int; channels 2 int; height 3 int; width 4 int; data 5 float*; diff 6 float*;
        shape 7 BlobShape; double_data 8 double*; double_diff 9 double*;
        raw_data_type 10 <DOUBLE FLOAT FLOAT16 INT UINT>;
        raw_diff_type 11 <DOUBLE FLOAT FLOAT16 INT UINT>; raw_data 12 bytes; raw_diff 13 bytes""",
    "FillerParameter": """
        type 1 string = "constant"; value 2 float = 0; min 3 float = 0; max 4 float = 1;
        mean 5 float = 0; std 6 float = 1; sparse 7 int = -1;
        variance_norm 8 <FAN_IN FAN_OUT AVERAGE> = FAN_IN; diag_val float*; file string""",
    "NetParameter": """
        name 1 string; layers 2 V1LayerParameter*; input 3 string*; input_dim 4 int*;
        force_backward 5 bool = false; state 6 NetState; debug_info 7 bool = false;
        input_shape 8 BlobShape*; layer 100 LayerParameter*; profile any; mem_param any;
        bn_stats_batch_size any; optimize_mem any; engine any""",
    "NetState": "phase 1 <TRAIN TEST> = TEST; level 2 int = 0; stage 3 string*",
    "NetStateRule": """
        phase 1 <TRAIN TEST>; min_level 2 int; max_level 3 int; stage 4 string*;
        not_stage 5 string*""",
    "ParamSpec": """
        name 1 string; share_mode 2 <STRICT PERMISSIVE> = STRICT; lr_mult 3 float = 1;
        decay_mult 4 float = 1""",
    "LayerParameter": """
        name 1 string; type 2 string; bottom 3 string*; top 4 string*; loss_weight 5 float*;
        param 6 ParamSpec*; blobs 7 BlobProto*; include 8 NetStateRule*; exclude 9 NetStateRule*;
        phase 10 <TRAIN TEST>; propagate_down 11 bool*; transform_param 100 TransformationParameter;
        loss_param 101 LossParameter; accuracy_param 102 AccuracyParameter;
        argmax_param 103 ArgMaxParameter; concat_param 104 ConcatParameter;
        contrastive_loss_param 105 ContrastiveLossParameter;
        convolution_param 106 ConvolutionParameter; data_param 107 DataParameter;
        dropout_param 108 DropoutParameter; dummy_data_param 109 DummyDataParameter;
        eltwise_param 110 EltwiseParameter; exp_param 111 ExpParameter;
        hdf5_data_param 112 HDF5DataParameter; hdf5_output_param 113 HDF5OutputParameter;
        hinge_loss_param 114 HingeLossParameter; image_data_param 115 ImageDataParameter;
        infogain_loss_param 116 InfogainLossParameter;
        inner_product_param 117 InnerProductParameter; lrn_param 118 LRNParameter;
        memory_data_param 119 MemoryDataParameter; mvn_param 120 MVNParameter;
        pooling_param 121 PoolingParameter; power_param 122 PowerParameter;
        relu_param 123 ReLUParameter; sigmoid_param 124 SigmoidParameter;
        softmax_param 125 SoftmaxParameter; slice_param 126 SliceParameter;
        tanh_param 127 TanHParameter; threshold_param 128 ThresholdParameter;
        window_data_param 129 WindowDataParameter; python_param 130 PythonParameter;
        prelu_param 131 PReLUParameter; spp_param 132 SPPParameter;
        reshape_param 133 ReshapeParameter; log_param 134 LogParameter;
        flatten_param 135 FlattenParameter; reduction_param 136 ReductionParameter;
        embed_param 137 EmbedParameter; tile_param 138 TileParameter;
        batch_norm_param 139 BatchNormParameter; elu_param 140 ELUParameter;
        bias_param 141 BiasParameter; scale_param 142 ScaleParameter;
        input_param 143 InputParameter; crop_param 144 CropParameter;
        parameter_param 145 ParameterParameter; recurrent_param 146 RecurrentParameter;
        swish_param 147 SwishParameter; clip_param 148 ClipParameter;
        annotated_data_param 200 AnnotatedDataParameter;
        multibox_loss_param 201 MultiBoxLossParameter; permute_param 202 PermuteParameter;
        prior_box_param 203 PriorBoxParameter;
        detection_output_param 204 DetectionOutputParameter; norm_param 206 NormalizeParameter;
        normalize_param NormParameter; bn_param BNParameter; interp_param InterpParameter;
        upsample_param UpsampleParameter;
        shuffle_channel_param ShuffleChannelParameter; roi_pooling_param ROIPoolingParameter;
        psroi_pooling_param PSROIPoolingParameter; smooth_l1_loss_param SmoothL1LossParameter;
        proposal_param ProposalParameter; simpler_nms_param SimplerNMSParameter;
        convolution3d_param ConvolutionParameter; pooling3d_param PoolingParameter;
        dense_image_data_param DenseImageDataParameter;
        video_data_param VideoDataParameter; reorg_param ReorgParameter;
        yolov3_detection_output_param Yolov3DetectionOutputParameter;
        yolo_detection_output_param YoloDetectionOutputParameter;
        region_yolo_param RegionYoloParameter; region_param RegionParameter;
        ctc_decoder_param CTCDecoderParameter; crelu_param CReLUParameter;
        crop_center_param CropCenterParameter; pixel_shuffle_param PixelShuffleParameter;
        pixelshuffle_param PixelShuffleParameter; transpose_param TransposeParameter;
        reverse_param ReverseParameter; hard_sigmoid_param HardSigmoidParameter;
        hardsigmoid_param HardSigmoidParameter; hardswish_param ActivationParameter;
        mish_param ActivationParameter; lstm_param LstmParameter;
        continuation_indicator_param ContinuationIndicatorParameter;
        correlation_param CorrelationParameter; flow_warp_param FlowWarpParameter;
        resample_param ResampleParameter; downsample_param DownsampleParameter;
        accum_param AccumParameter; mean_param MeanParameter;
        augmentation_param AugmentationParameter; coeff_schedule_param any;
        reshape_every_iter any; grn_param GRNParameter; st_param SpatialTransformerParameter;
        squeeze_param SqueezeParameter; pad_param PadParameter;
        resize_nearest_neighbor_param ResizeNearestNeighborParameter;
        resize_bilinear_param ResizeBilinearParameter; group_norm_param GroupNormParameter;
        axpy_param any; engine any; quantization_param any; device any; buffer any""",
    "V1LayerParameter": f"""
        layer 1 V0LayerParameter; bottom 2 string*; top 3 string*; name 4 string;
        type 5 {_V1_TYPES}; blobs 6 BlobProto*; blobs_lr 7 float*; weight_decay 8 float*;
        concat_param 9 ConcatParameter; convolution_param 10 ConvolutionParameter;
        data_param 11 DataParameter; dropout_param 12 DropoutParameter;
        hdf5_data_param 13 HDF5DataParameter; hdf5_output_param 14 HDF5OutputParameter;
        image_data_param 15 ImageDataParameter; infogain_loss_param 16 InfogainLossParameter;
        inner_product_param 17 InnerProductParameter; lrn_param 18 LRNParameter;
        pooling_param 19 PoolingParameter; window_data_param 20 WindowDataParameter;
        power_param 21 PowerParameter; memory_data_param 22 MemoryDataParameter;
        argmax_param 23 ArgMaxParameter; eltwise_param 24 EltwiseParameter;
        threshold_param 25 ThresholdParameter; dummy_data_param 26 DummyDataParameter;
        accuracy_param 27 AccuracyParameter; hinge_loss_param 29 HingeLossParameter;
        relu_param 30 ReLUParameter; slice_param 31 SliceParameter; include 32 NetStateRule*;
        exclude 33 NetStateRule*; mvn_param 34 MVNParameter; loss_weight 35 float*;
        transform_param 36 TransformationParameter; tanh_param 37 TanHParameter;
        sigmoid_param 38 SigmoidParameter; softmax_param 39 SoftmaxParameter;
        contrastive_loss_param 40 ContrastiveLossParameter; exp_param 41 ExpParameter;
        loss_param 42 LossParameter; param 1001 string*;
        blob_share_mode 1002 <STRICT PERMISSIVE>*; bn_param BNParameter;
        upsample_param UpsampleParameter; interp_param InterpParameter;
        prelu_param PReLUParameter; reshape_param ReshapeParameter; python_param PythonParameter;
        flatten_param FlattenParameter; engine any""",
    "V0LayerParameter": """
        name 1 string; type 2 string; num_output 3 uint; biasterm 4 bool = true;
        weight_filler 5 FillerParameter; bias_filler 6 FillerParameter; pad 7 uint = 0;
        kernelsize 8 uint; group 9 uint = 1; stride 10 uint = 1;
        pool 11 <MAX AVE STOCHASTIC> = MAX; dropout_ratio 12 float = 0.5; local_size 13 uint = 5;
        alpha 14 float = 1; beta 15 float = 0.75; source 16 string; scale 17 float = 1;
        meanfile 18 string; batchsize 19 uint; cropsize 20 uint = 0; mirror 21 bool = false;
        k 22 float = 1; blobs 50 BlobProto*; blobs_lr 51 float*; weight_decay 52 float*;
        rand_skip 53 uint = 0; det_fg_threshold 54 float = 0.5; det_bg_threshold 55 float = 0.5;
        det_fg_fraction 56 float = 0.25; det_context_pad 58 uint = 0;
        det_crop_mode 59 string = "warp"; new_num 60 int = 0; new_channels 61 int = 0;
        new_height 62 int = 0; new_width 63 int = 0; shuffle_images 64 bool = false;
        concat_dim 65 uint = 1; hdf5_output_param 1001 HDF5OutputParameter""",
    # What a weights file says that matters: everything else in it is skipped unread.
    "NetWeights": "layers 2 V1LayerWeights*; layer 100 LayerWeights*",
    "LayerWeights": "name 1 string; type 2 string; blobs 7 BlobProto*",
    "V1LayerWeights": "name 4 string; blobs 6 BlobProto*; layer 1 V0LayerWeights",
    "V0LayerWeights": "name 1 string; blobs 50 BlobProto*",
    "SolverParameter": """
        train_net 1 string; test_net 2 string*; test_iter 3 int*; test_interval 4 int = 0;
        base_lr 5 float; display 6 int; max_iter 7 int; lr_policy 8 string; gamma 9 float;
        power 10 float; momentum 11 float; weight_decay 12 float; stepsize 13 int;
        snapshot 14 int = 0; snapshot_prefix 15 string; snapshot_diff 16 bool = false;
        solver_mode 17 <CPU GPU> = GPU; device_id 18 int = 0; test_compute_loss 19 bool = false;
        random_seed 20 int = -1; train_net_param 21 NetParameter;
        test_net_param 22 NetParameter*; debug_info 23 bool = false; net 24 string;
        net_param 25 NetParameter; train_state 26 NetState; test_state 27 NetState*;
        snapshot_after_train 28 bool = true; regularization_type 29 string = "L2";
        solver_type 30 <SGD NESTEROV ADAGRAD RMSPROP ADADELTA ADAM> = SGD;
        delta 31 float = 1e-8; test_initialization 32 bool = true; average_loss 33 int = 1;
        stepvalue 34 int*; clip_gradients 35 float = -1; iter_size 36 int = 1;
        snapshot_format 37 <HDF5 BINARYPROTO> = BINARYPROTO; rms_decay 38 float = 0.99;
        momentum2 39 float = 0.999; type 40 string = "SGD"; layer_wise_reduce 41 bool = true;
        weights 42 string*""",
}
