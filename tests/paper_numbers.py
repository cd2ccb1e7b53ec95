"""What the networks must count to: typed by hand from the papers and from other implementations, never from this code.

Trainable parameters and multiply-adds (convolutions and dense layers, biases left out, one image of 224 x 224) are
those of torchvision 0.29.1, counted there. Activations are the output elements of every Conv2d and Linear of the same
networks, summed by a forward hook on each for one image. Depth is the number of weighted layers on the longest path,
which the papers put into the networks' names. Rows that torchvision does not have are derived below.

GoogLeNet with its 5x5, from torchvision's, which has a 3x3 there: (25 - 9) * n5x5reduce * n5x5 * positions more
multiply-adds,
    16 * ( (16*32 + 32*96) * 28*28                                      3a, 3b         2,809,856
         + (16*48 + 24*64 + 24*64 + 32*64 + 32*128) * 14*14             4a to 4e       1,956,864
         + (32*128 + 48*128) * 7*7 )                                    5a, 5b           501,760
    = 16 * 5,268,480 = 84,295,680;  1,498,376,192 + 84,295,680 = 1,582,671,872.
Same sizes, so the same activations.

GoogLeNet's heads, on 4a (512 channels) and 4d (528), pooled to 4x4, with biases:
    parameters     c*128 + 128 + 2048*1024 + 1024 + 1024*1000 + 1000 = 3,188,840 and 3,190,888;
                   6,998,552 + 3,188,840 + 3,190,888 = 13,378,280
    multiply-adds  4*4*c*128 + 2048*1024 + 1024*1000 = 4,169,728 and 4,202,496;
                   1,582,671,872 + 8,372,224 = 1,591,044,096
    activations    4*4*128 + 1024 + 1000 = 4,072 each;  3,227,160 + 8,144 = 3,235,304

Version 1 of the bottleneck ResNets: the first 1x1 of stages 2 to 4 works on a quarter of the positions,
    multiply-adds  3/4 * (256*128 * 56*56 + 512*256 * 28*28 + 1024*512 * 14*14) = 3 * 77,070,336 = 231,211,008 fewer:
                   50: 4,089,184,256, 101: 7,801,405,440, 152: 11,513,626,624 become
                   3,857,973,248, 7,570,194,432 and 11,282,415,616
    activations    3/4 * (128 * 56*56 + 256 * 28*28 + 512 * 14*14) = 526,848 fewer:
                   11,114,984, 16,232,936 and 22,555,112 become 10,588,136, 15,706,088 and 22,028,264

Plain networks are the residual ones without their three projections (stages 2 to 4 of the 18 and 34 layer columns):
    parameters     64*128 + 2*128 + 128*256 + 2*256 + 256*512 + 2*512 = 173,824 fewer
    multiply-adds  64*128 * 28*28 + 128*256 * 14*14 + 256*512 * 7*7 = 3 * 6,422,528 = 19,267,584 fewer:
                   1,814,073,344 and 3,663,761,408 become 1,794,805,760 and 3,644,493,824
    activations    128 * 28*28 + 256 * 14*14 + 512 * 7*7 = 175,616 fewer

CIFAR networks of depth 6n + 2 with option A, on 32 x 32 x 3 with 10 classes:
    parameters     stem 27*16 + 2*16 = 464; classifier 64*10 + 10 = 650;
                   stage 1: 2n * (9*16*16 + 2*16) = 2n * 2,336
                   stage 2: 9*16*32 + 2*32 = 4,672 and (2n - 1) * (9*32*32 + 2*32) = (2n - 1) * 9,280
                   stage 3: 9*32*64 + 2*64 = 18,560 and (2n - 1) * (9*64*64 + 2*64) = (2n - 1) * 36,992
                   = 2n * 48,608 - 21,926:  n = 3: 269,722; 5: 464,154; 7: 658,586; 9: 853,018; 18: 1,727,962
    multiply-adds  stem 27*16 * 1024 = 442,368; classifier 640; each convolution 9*16*16 * 1024 = 9*32*32 * 256
                   = 9*64*64 * 64 = 2,359,296, but the first of stages 2 and 3 half of that
                   = 443,008 + (6n - 1) * 2,359,296:  n = 3: 40,551,040; 5: 68,862,592; 7: 97,174,144;
                   9: 125,485,696; 18: 252,887,680
    activations    stem 16,384, classifier 10, stages 2n * (16,384 + 8,192 + 4,096) = 2n * 28,672:
                   n = 3: 188,426; 5: 303,114; 7: 417,802; 9: 532,490; 18: 1,048,586

EfficientNets at their own sizes (B0 to B7 224, 240, 260, 300, 380, 456, 528, 600 pixels; Lite0 to Lite4 224, 240, 260,
280, 300): parameters, multiply-adds and activations as above, by a forward hook on torchvision's efficientnet_b0 to b7
and on timm 1.0.31's tf_efficientnet_b0 to b7, which agree, and on timm's tf_efficientnet_lite0 to lite4; the last also
at 380 pixels, which is timm's size for it. On the longest path a block of stage 1 has 4 weighted layers (depthwise, two
in the gate, projection) and one of the others 5; stem, top and classifier are 3 more:
    layers of each stage   B0 1 2 2 3 3 4 1   B1 = B2 2 3 3 4 4 5 2   B3 2 3 3 5 5 6 2   B4 2 4 4 6 6 8 2
                           B5 3 5 5 7 7 9 3   B6 3 6 6 8 8 11 3       B7 4 7 7 10 10 13 4
                           4*first + 5*others + 3 = 82, 116, 116, 131, 161, 195, 225, 274
    Lite, without a gate   0: 1 2 2 3 3 4 1   1 = 2: 1 3 3 4 4 5 1    3: 1 3 3 5 5 6 1  4: 1 4 4 6 6 8 1
                           2*first + 3*others + 3 = 50, 65, 65, 74, 92
"""

from typing import NamedTuple


class Row(NamedTuple):
    """What one network counts to."""

    name: str
    arguments: dict
    parameters: int  # trainable
    multiply_adds: float  # in G, 1e9, to three decimals
    activations: int
    depth: int  # weighted layers on the longest path


# fmt: off
ROWS = (
    Row("GoogLeNet",   {},                  6_998_552,  1.583,  3_227_160,  22),
    Row("GoogLeNet",   {"aux_heads": True}, 13_378_280, 1.591,  3_235_304,  22),
    Row("InceptionV1", {},                  6_624_904,  1.498,  3_227_160,  22),
    Row("InceptionV1", {"aux_heads": True}, 13_004_888, 1.507,  3_235_304,  22),
    Row("ResNet18",    {},                  11_689_512, 1.814,  2_484_712,  18),
    Row("ResNet34",    {},                  21_797_672, 3.664,  3_739_112,  34),
    Row("ResNet50",    {},                  25_557_032, 4.089,  11_114_984, 50),
    Row("ResNet50",    {"version": "1"},    25_557_032, 3.858,  10_588_136, 50),
    Row("ResNet101",   {},                  44_549_160, 7.801,  16_232_936, 101),
    Row("ResNet101",   {"version": "1"},    44_549_160, 7.570,  15_706_088, 101),
    Row("ResNet152",   {},                  60_192_808, 11.514, 22_555_112, 152),
    Row("ResNet152",   {"version": "1"},    60_192_808, 11.282, 22_028_264, 152),
    Row("PlainNet18",  {},                  11_515_688, 1.795,  2_309_096,  18),
    Row("PlainNet34",  {},                  21_623_848, 3.644,  3_563_496,  34),
    Row("ResNetCIFAR", {"depth": 8},        75_290,     0.012,  73_738,     8),
    Row("ResNet20",    {},                  269_722,    0.041,  188_426,    20),
    Row("ResNet32",    {},                  464_154,    0.069,  303_114,    32),
    Row("ResNet44",    {},                  658_586,    0.097,  417_802,    44),
    Row("ResNet56",    {},                  853_018,    0.125,  532_490,    56),
    Row("ResNet110",   {},                  1_727_962,  0.253,  1_048_586,  110),
    Row("PlainNetCIFAR", {"depth": 8},      75_290,     0.012,  73_738,     8),
    Row("PlainNet20",  {},                  269_722,    0.041,  188_426,    20),
    Row("PlainNet56",  {},                  853_018,    0.125,  532_490,    56),
    Row("EfficientNet",        {},   5_288_548,  0.386,   6_748_036,  82),
    Row("EfficientNet",        {"width": 1.1, "depth": 1.2, "resolution": 260},  9_109_994,  0.994,  13_832_834, 116),
    Row("EfficientNetB0",      {},   5_288_548,  0.386,   6_748_036,  82),
    Row("EfficientNetB1",      {},   7_794_184,  0.687,  10_884_328, 116),
    Row("EfficientNetB2",      {},   9_109_994,  0.994,  13_832_834, 116),
    Row("EfficientNetB3",      {},  12_233_232,  1.827,  23_831_296, 131),
    Row("EfficientNetB4",      {},  19_341_616,  4.394,  49_489_032, 161),
    Row("EfficientNetB5",      {},  30_389_784, 10.266,  98_857_400, 195),
    Row("EfficientNetB6",      {},  43_040_704, 19.068, 167_393_400, 225),
    Row("EfficientNetB7",      {},  66_347_960, 37.746, 289_939_464, 274),
    Row("EfficientNetLite0",   {},   4_652_008,  0.385,   6_738_696,  50),
    Row("EfficientNetLite1",   {},   5_416_680,  0.600,  10_143_128,  65),
    Row("EfficientNetLite2",   {},   6_092_072,  0.860,  12_895_600,  65),
    Row("EfficientNetLite3",   {},   8_197_096,  1.383,  18_985_304,  74),
    Row("EfficientNetLite4",   {},  13_006_568,  2.553,  28_839_304,  92),
    Row("EfficientNetLite4",   {"input_shape": (380, 380, 3)}, 13_006_568,  3.944,  45_659_608,  92),
)
# fmt: on
