"""The expected counts of the networks, typed by hand from the papers and other implementations, never from this code.

Trainable parameters and multiply-adds (convolutions and dense layers without biases, one image of 224 x 224 unless
another size is given) were counted on torchvision 0.29.1. Activations are the output elements of every Conv2d and
Linear of the same networks for one image, counted by forward hooks. Depth is the number of weighted layers on the
longest path, which is the number in the networks' names. Rows that torchvision does not have are derived below.

AlexNet of 2012, Figure 2 at 227 x 227; each kernel of conv2, conv4 and conv5 sees half of the input channels:
           positions   filters    kernel              activations  parameters    multiply-adds
    conv1  55*55    *  96      *  11*11*3   =   363       290,400      34,944      105,415,200
    conv2  27*27    *  256     *  5*5*48    = 1,200       186,624     307,456      223,948,800
    conv3  13*13    *  384     *  3*3*256   = 2,304        64,896     885,120      149,520,384
    conv4  13*13    *  384     *  3*3*192   = 1,728        64,896     663,936      112,140,288
    conv5  13*13    *  256     *  3*3*192   = 1,728        43,264     442,624       74,760,192
    fc                 4096    *  6*6*256   = 9,216         4,096  37,752,832       37,748,736
    fc                 4096    *  4096                      4,096  16,781,312       16,777,216
    fc                 1000    *  4096                      1,000   4,097,000        4,096,000
                                                          659,272  60,965,224      724,406,816
The activations are those in the caption of Figure 2 ("186,624-64,896-64,896-43,264-4096-4096-1000") but for conv1,
where the caption has 253,440 and the figure 55*55*96.

VGG-13, by hand: in a block of maps of 224 / 2^n pixels the second convolution has
9*64*64 * 224*224 = 1,849,688,064 and the first, with half as many input channels, half of that; block 1 begins with
9*3*64 * 224*224 = 86,704,128 and block 5 has twice 9*512*512 * 14*14 = 462,422,016; the dense layers have
25,088*4096 + 4096*4096 + 4096*1000 = 123,633,664:
    86,704,128 + 4 * 1,849,688,064 + 3 * 924,844,032 + 2 * 462,422,016 + 123,633,664 = 11,308,466,176

GoogLeNet, whose 5x5 is a 3x3 in torchvision: (25 - 9) * n5x5reduce * n5x5 * positions more multiply-adds,
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

GoogLeNet of Figure 2a, without 1x1 bottlenecks: on c channels a module has the kernel elements
k = n1x1 + 9 * n3x3 + 25 * n5x5 for each of them, n = n1x1 + n3x3 + n5x5 biases, and passes c + n channels on:
            c      k      n      positions  parameters c*k + n   multiply-adds c*k * positions
    3a      192    2,016  224    784           387,296              303,464,448
    3b      416    4,256  416    784         1,770,912            1,388,068,864
    4a      832    3,264  448    196         2,716,096              532,267,008
    4b    1,280    3,776  448    196         4,833,728              947,322,880
    4c    1,728    4,032  448    196         6,967,744            1,365,590,016
    4d    2,176    4,304  464    196         9,365,968            1,835,638,784
    4e    2,640    6,336  704    196        16,727,744            3,278,499,840
    5a    3,344    6,336  704     49        21,188,288            1,038,191,616
    5b    4,048    7,040  896     49        28,498,816            1,396,398,080
    with the stem (124,416 and 477,675,520) and the classifier on 4,944 channels (4,945,000 and 4,944,000):
    97,526,008 parameters and 12,568,061,056 multiply-adds, 14 and 8 times those with bottlenecks.
    Activations: stem 2 * 802,816, modules n * positions, classifier 1,000: 2,679,144. Without reductions the longest
    path has a layer less in each module.

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

DenseNet-264, k = 32; a block of n layers on c channels has a sum of inputs s = n*c + 16 * n * (n - 1), where
n, c, s = 6, 64, 864; 12, 128, 3,648; 64, 256, 80,896; 48, 1,152, 91,392. Its name counts 264 layers and its table 265.
    parameters     s * (2 + 128) + n * (256 + 9*128*32) = 335,040; 919,680; 12,892,160; 13,662,720
                   transitions 2*256 + 256*128 = 33,280; 2*512 + 512*256 = 132,096; 2*2304 + 2304*1152 = 2,658,816
                   stem 147*64 + 128 = 9,536; last norm 2*2688 = 5,376; classifier 2688*1000 + 1000 = 2,689,000
                   33,337,704 in all
    multiply-adds  (128*s + 36,864*n) * positions = 1,040,449,536; 712,900,608; 2,491,940,864; 659,914,752
                   transitions 2 * 102,760,448 + 520,224,768; stem 118,013,952; classifier 2,688,000
                   5,751,653,376 in all
    activations    160 * (6 * 56*56 + 12 * 28*28 + 64 * 14*14 + 48 * 7*7) = 6,899,200; stem 802,816;
                   transitions 401,408 + 200,704 + 225,792; classifier 1,000; 8,530,920 in all

DenseNet for CIFAR, L = 40, k = 12: blocks of 12 layers on 16, 160 and 304 channels, s = 12*c + 12*66
= 984; 2,712; 4,440
    parameters     s * (2 + 9*12) = 894,960 for the three; transitions 2*160 + 160*160 = 25,920 and
                   2*304 + 304*304 = 93,024; stem 432; last norm 896; classifier 4,490; 1,019,722 in all
    multiply-adds  108 * (984*1024 + 2,712*256 + 4,440*64) = 214,493,184; transitions 25,600*1024 + 92,416*256;
                   stem 442,368; classifier 4,480; 264,812,928 in all
    activations    144 * (1024 + 256 + 64) = 193,536; transitions 163,840 + 77,824; stem 16,384; 10; 451,594 in all

DenseNet-BC for CIFAR, L = 100, k = 12: blocks of 16 layers on 24, 108 and 150 channels, s = 16*c + 12*120
= 1,824; 3,168; 3,840
    parameters     s * (2 + 48) + 48 * (96 + 9*48*12) = 695,040 for the three; transitions 2*216 + 216*108 = 23,760 and
                   2*300 + 300*150 = 45,600; stem 648; last norm 684; classifier 3,430; 769,162 in all
    multiply-adds  (48*s + 16*5,184) * positions = 174,587,904; 60,162,048; 17,104,896; transitions
                   23,328*1024 + 45,000*256 = 35,407,872; stem 663,552; classifier 3,420; 287,929,692 in all
    activations    60*16 * (1024 + 256 + 64) = 1,290,240; transitions 110,592 + 38,400; stem 24,576; 10;
                   1,463,818 in all

Networks with squeeze and excitation were counted in the same way on timm 1.0.31, including the layers of the gates:
version 1 on legacy_seresnet18 to 152, version 1.5 on seresnet50 to 152, the others on legacy_seresnext50_32x4d,
legacy_seresnext101_32x4d and legacy_senet154. Depth excludes the gates, as in the names.

SE-InceptionV1 is InceptionV1 with a gate after every module of c channels, with r = c // 16 channels inside; c and r
are 256, 16 (3a); 480, 30 (3b); 512, 32 (4a to 4c); 528, 33 (4d); 832, 52 (4e, 5a); 1024, 64 (5b):
    parameters     2cr + r + c = 8,464 + 29,310 + 3 * 33,312 + 35,409 + 2 * 87,412 + 132,160 = 480,103 more;
                   6,624,904 + 480,103 = 7,105,007, with heads 13,004,888 + 480,103 = 13,484,991
    multiply-adds  2cr = 8,192 + 28,800 + 3 * 32,768 + 34,848 + 2 * 86,528 + 131,072 = 474,272 more;
                   1,498,376,192 + 474,272 = 1,498,850,464, with heads (above) 1,507,222,688
    activations    r + c = 272 + 510 + 3 * 544 + 561 + 2 * 884 + 1,088 = 5,831 more: 3,232,991 and 3,241,135

Deformable ResNets are the plain ones and, in each 3x3 of stages 2 to 4 (4 of 128 channels, 6 or 23 of 256, 3 of 512), a
3x3 with bias to 2 * 9 offsets, 9 * 18 = 162 weights per channel, and with masks to 9 more, 9 * 27 = 243:
    channels       50: 4*128 + 6*256 + 3*512 = 3,584 in 13 layers;  101: 4*128 + 23*256 + 3*512 = 7,936 in 30
    parameters     50:  25,557,032 + 162 * 3,584 + 18 * 13 = 26,137,874;  + 243 * 3,584 + 27 * 13 = 26,428,295
                   101: 44,549,160 + 162 * 7,936 + 18 * 30 = 45,835,332;  + 243 * 7,936 + 27 * 30 = 46,478,418
    multiply-adds  channels times positions after the stride: 4*128 * 28*28 + 6*256 * 14*14 + 3*512 * 7*7 = 777,728,
                   with 23*256 1,630,720
                   50:  4,089,184,256 + 162 * 777,728 = 4,215,176,192;  + 243 * 777,728 = 4,278,172,160
                        version 1 with masks 3,857,973,248 + 243 * 777,728 = 4,046,961,152
                   101: 7,801,405,440 + 162 * 1,630,720 = 8,065,582,080;  + 243 * 1,630,720 = 8,197,670,400
Offsets and masks stay inside their layers: activations and depth are those of the plain network.

EfficientNets at their own sizes (B0 to B7 224, 240, 260, 300, 380, 456, 528, 600 pixels; Lite0 to Lite4 224, 240, 260,
280, 300): parameters, multiply-adds and activations as above, by a forward hook on torchvision's efficientnet_b0 to b7
and on timm 1.0.31's tf_efficientnet_b0 to b7, which agree, and on timm's tf_efficientnet_lite0 to lite4; the last also
at 380 pixels, which is timm's size for it. On the longest path a block of stage 2 has 2 weighted layers (depthwise,
projection) and a block of the others 3, without gates; stem, top and classifier are 3 more:
    layers of each stage   B0 1 2 2 3 3 4 1   B1 = B2 2 3 3 4 4 5 2   B3 2 3 3 5 5 6 2   B4 2 4 4 6 6 8 2
                           B5 3 5 5 7 7 9 3   B6 3 6 6 8 8 11 3       B7 4 7 7 10 10 13 4
                           2*first + 3*others + 3 = 50, 70, 70, 79, 97, 117, 135, 164
    Lite, without a gate   0: 1 2 2 3 3 4 1   1 = 2: 1 3 3 4 4 5 1    3: 1 3 3 5 5 6 1  4: 1 4 4 6 6 8 1
                           2*first + 3*others + 3 = 50, 65, 65, 74, 92
"""

from typing import NamedTuple


class Row(NamedTuple):
    """The expected counts of one network."""

    name: str
    arguments: dict
    parameters: int  # trainable
    multiply_adds: float  # in G, 1e9, to three decimals
    activations: int
    depth: int  # weighted layers on the longest path, without those of gates


# fmt: off
ROWS = (
    Row("AlexNet",     {},                  60_965_224, 0.724,  659_272,    8),
    Row("AlexNetOneTower", {},              61_100_840, 0.714,  494_184,    8),
    Row("VGG11",       {},                  132_863_336, 7.609, 7_435_240,  11),
    Row("VGG11",       {"batch_norm": True}, 132_868_840, 7.609, 7_435_240, 11),
    Row("VGG13",       {},                  133_047_848, 11.308, 12_252_136, 13),
    Row("VGG13",       {"batch_norm": True}, 133_053_736, 11.308, 12_252_136, 13),
    Row("VGG16",       {},                  138_357_544, 15.470, 13_556_712, 16),
    Row("VGG16",       {"batch_norm": True}, 138_365_992, 15.470, 13_556_712, 16),
    Row("VGG19",       {},                  143_667_240, 19.632, 14_861_288, 19),
    Row("VGG19",       {"batch_norm": True}, 143_678_248, 19.632, 14_861_288, 19),
    Row("GoogLeNet",   {},                  6_998_552,  1.583,  3_227_160,  22),
    Row("GoogLeNet",   {"aux_heads": True}, 13_378_280, 1.591,  3_235_304,  22),
    Row("GoogLeNet",   {"naive": True},     97_526_008, 12.568, 2_679_144,  13),
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
    Row("ResNetCIFAR", {},                  269_722,    0.041,  188_426,    20),
    Row("ResNetCIFAR", {"depth": 8},        75_290,     0.012,  73_738,     8),
    Row("ResNet20",    {},                  269_722,    0.041,  188_426,    20),
    Row("ResNet32",    {},                  464_154,    0.069,  303_114,    32),
    Row("ResNet44",    {},                  658_586,    0.097,  417_802,    44),
    Row("ResNet56",    {},                  853_018,    0.125,  532_490,    56),
    Row("ResNet110",   {},                  1_727_962,  0.253,  1_048_586,  110),
    Row("PlainNetCIFAR", {},                269_722,    0.041,  188_426,    20),
    Row("PlainNetCIFAR", {"depth": 8},      75_290,     0.012,  73_738,     8),
    Row("PlainNet20",  {},                  269_722,    0.041,  188_426,    20),
    Row("PlainNet56",  {},                  853_018,    0.125,  532_490,    56),
    Row("DenseNet121", {},                  7_978_856,  2.834,  6_900_200,  121),
    Row("DenseNet161", {},                  28_681_000, 7.728,  11_064_808, 161),
    Row("DenseNet169", {},                  14_149_480, 3.360,  7_301_608,  169),
    Row("DenseNet201", {},                  20_013_928, 4.291,  7_853_544,  201),
    Row("DenseNet264", {},                  33_337_704, 5.752,  8_530_920,  265),
    Row("DenseNetCIFAR", {},                1_019_722,  0.265,  451_594,    40),
    Row("DenseNetCIFAR", {"depth": 100, "bottleneck": True, "compression": 0.5}, 769_162, 0.288, 1_463_818, 100),
    Row("SEResNet18",  {},                  11_778_592, 1.814,  2_486_752,  18),
    Row("SEResNet34",  {},                  21_958_868, 3.664,  3_743_124,  34),
    Row("SEResNet50",  {},                  28_088_024, 4.092,  11_131_032, 50),
    Row("SEResNet50",  {"version": "1"},    28_088_024, 3.860,  10_604_184, 50),
    Row("SEResNet101", {},                  49_326_872, 7.806,  16_267_480, 101),
    Row("SEResNet101", {"version": "1"},    49_326_872, 7.575,  15_740_632, 101),
    Row("SEResNet152", {},                  66_821_848, 11.520, 22_605_976, 152),
    Row("SEResNet152", {"version": "1"},    66_821_848, 11.289, 22_079_128, 152),
    Row("SEResNeXt50", {},                  27_559_896, 4.233,  14_417_560, 50),
    Row("SEResNeXt101", {},                 48_955_416, 7.975,  21_259_992, 101),
    Row("SEInceptionV1", {},                7_105_007,  1.499,  3_232_991,  22),
    Row("SEInceptionV1", {"aux_heads": True}, 13_484_991, 1.507, 3_241_135, 22),
    Row("SENet154",    {},                  115_088_984, 20.688, 38_687_384, 154),
    Row("DeformableResNet50",  {},                   26_428_295, 4.278, 11_114_984, 50),
    Row("DeformableResNet50",  {"version": "1"},     26_428_295, 4.047, 10_588_136, 50),
    Row("DeformableResNet50",  {"modulated": False}, 26_137_874, 4.215, 11_114_984, 50),
    Row("DeformableResNet101", {},                   46_478_418, 8.198, 16_232_936, 101),
    Row("DeformableResNet101", {"modulated": False}, 45_835_332, 8.066, 16_232_936, 101),
    Row("EfficientNet",        {},   5_288_548,  0.386,   6_748_036,  50),
    Row("EfficientNet",        {"width": 1.1, "depth": 1.2, "resolution": 260},  9_109_994,  0.994,  13_832_834,  70),
    Row("EfficientNetB0",      {},   5_288_548,  0.386,   6_748_036,  50),
    Row("EfficientNetB1",      {},   7_794_184,  0.687,  10_884_328, 70),
    Row("EfficientNetB2",      {},   9_109_994,  0.994,  13_832_834, 70),
    Row("EfficientNetB3",      {},  12_233_232,  1.827,  23_831_296, 79),
    Row("EfficientNetB4",      {},  19_341_616,  4.394,  49_489_032, 97),
    Row("EfficientNetB5",      {},  30_389_784, 10.266,  98_857_400, 117),
    Row("EfficientNetB6",      {},  43_040_704, 19.068, 167_393_400, 135),
    Row("EfficientNetB7",      {},  66_347_960, 37.746, 289_939_464, 164),
    Row("EfficientNetLite0",   {},   4_652_008,  0.385,   6_738_696,  50),
    Row("EfficientNetLite1",   {},   5_416_680,  0.600,  10_143_128,  65),
    Row("EfficientNetLite2",   {},   6_092_072,  0.860,  12_895_600,  65),
    Row("EfficientNetLite3",   {},   8_197_096,  1.383,  18_985_304,  74),
    Row("EfficientNetLite4",   {},  13_006_568,  2.553,  28_839_304,  92),
    Row("EfficientNetLite4",   {"input_shape": (380, 380, 3)}, 13_006_568,  3.944,  45_659_608,  92),
)
# fmt: on
