"""The predictions of the studies, typed from the literature before anything was measured.

A study's CLAIMS must equal its entry here, so that none is changed to agree with what was measured. One that turns out
to be contradicted stays.
"""

from math import inf

# {study: [(statement, quantity, least, greatest, source)]}
CLAIMS = {
    "receptive_fields": [
        ("L1", "receptive field, pixels, AlexNet", 195, 195, "Araujo et al. 2019, table of well-known networks"),
        ("L1", "receptive field, pixels, VGG16", 212, 212, "Araujo et al. 2019, table of well-known networks"),
        (
            "L1",
            "receptive field, pixels, ResNet50, version 1",
            483,
            483,
            "Araujo et al. 2019, table of well-known networks",
        ),
        (
            "L1",
            "receptive field, pixels, ResNet101, version 1",
            1027,
            1027,
            "Araujo et al. 2019, table of well-known networks",
        ),
        (
            "L1",
            "receptive field, pixels, ResNet152, version 1",
            1507,
            1507,
            "Araujo et al. 2019, table of well-known networks",
        ),
        (
            "L1",
            "power of the theoretical field by which the effective field of plain networks grows",
            0.35,
            0.65,
            "Luo et al. 2016, section 2",
        ),
        (
            "L1",
            "effective over theoretical field of a plain network, deepest over shallowest",
            -inf,
            1,
            "Luo et al. 2016, section 2",
        ),
        (
            "L1",
            "effective field of the deepest residual network over that of the plain one",
            -inf,
            1,
            "Luo et al. 2016, section 4.1",
        ),
    ],
    "gradients": [
        ("L3", "log10 of the norm in the first layer, plain, glorot_uniform", -inf, -6, "He et al. 2015, section 2.2"),
        (
            "L3",
            "log10 of the norm in the first layer over that in the last, plain, he_normal",
            -1.5,
            1.5,
            "He et al. 2015, section 2.2",
        ),
        (
            "L4",
            "log10 of the norm in the first layer over that in the last, plain, he_normal, batch norm",
            2,
            inf,
            "Yang et al. 2019, section 4",
        ),
        (
            "L14",
            "log10 of the norm in the first layer, difference between residual and plain, glorot_uniform",
            4,
            inf,
            "He et al. 2016, Identity Mappings, equation 5",
        ),
        (
            "L14",
            "log10 of the norm in the first layer over that in the last, difference between residual and plain, "
            "he_normal, batch norm",
            -inf,
            -1,
            "Yang et al. 2019, section 4",
        ),
    ],
    "depth_cost": [
        ("L5", "multiply-adds, G, ResNet18", 1.75, 1.85, "He et al. 2016, Table 1"),
        ("L5", "multiply-adds, G, ResNet34", 3.55, 3.68, "He et al. 2016, Table 1"),
        ("L5", "multiply-adds, G, ResNet50", 3.75, 3.9, "He et al. 2016, Table 1"),
        ("L5", "multiply-adds, G, ResNet101", 7.5, 7.65, "He et al. 2016, Table 1"),
        ("L5", "multiply-adds, G, ResNet152", 11.2, 11.4, "He et al. 2016, Table 1"),
        (
            "L5",
            "time of the deepest ResNet over that of the shallowest",
            3,
            inf,
            "He et al. 2016, Table 1: 6.3 times the multiply-adds",
        ),
    ],
    "degradation": [
        ("L6", "test error, %, plain-56 minus plain-20", 0, inf, "He et al. 2016, section 4.2, Figure 6"),
        ("L12", "training error, %, plain-56 minus plain-20", 0, inf, "He et al. 2016, section 4.2, Figure 6"),
        ("L12", "training error, %, residual-56 minus residual-20", -inf, 1, "He et al. 2016, section 4.2, Figure 6"),
        (
            "L13",
            "log10 of the gradient's norm in the first layer over that in the last, the least in training, plain-56",
            -inf,
            -2,
            "the lecture; He et al. 2016, section 4.1, say that it does not",
        ),
    ],
    "heads": [
        (
            "L10",
            "log10 of the gradient of aux1 over that of the main head in the first layer, before training, GoogLeNet",
            -1,
            inf,
            "Szegedy et al. 2015, section 5",
        ),
        (
            "L10",
            "log10 of the gradient of aux1 over that of the main head in the first layer, before training, InceptionV1",
            -inf,
            0,
            "Szegedy et al. 2016, section 4",
        ),
        (
            "L10",
            "gradient of aux1 above the module that it is attached to, GoogLeNet",
            0,
            0,
            "Szegedy et al. 2015, section 5",
        ),
        ("L11", "layers of auxiliary heads in the network for inference", 0, 0, "Szegedy et al. 2015, section 5"),
        ("L11", "largest difference of the outputs without the heads", 0, 0, "Szegedy et al. 2015, section 5"),
    ],
    "branches": [
        ("L7", "share of the 3x3 branch in the channels of all modules, %", 40, inf, "Szegedy et al. 2015, Table 1"),
        (
            "L7",
            "rise of the test error without the branch that is missed least, points",
            0,
            inf,
            "Szegedy et al. 2015, Table 1",
        ),
        (
            "L7",
            "rise of the test error without 3x3 minus the rise without the pool, points",
            0,
            inf,
            "Szegedy et al. 2015, Table 1",
        ),
    ],
    "bottleneck": [
        ("L8", "multiply-adds of the naive network, in units of the other's", 4, inf, "Szegedy et al. 2015, section 4"),
        ("L8", "parameters of the naive network, in units of the other's", 4, inf, "Szegedy et al. 2015, section 4"),
        (
            "L8",
            "seconds of all modules of the naive network, in units of the other's",
            3,
            inf,
            "Szegedy et al. 2015, section 4",
        ),
        (
            "L8",
            "test error, %, naive minus bottleneck after the same time",
            0,
            inf,
            "Szegedy et al. 2015, section 4: the naive form leads to a computational blow up",
        ),
    ],
    "pointwise": [
        (
            "L9",
            "largest difference from a dense layer on each pixel, of the largest output, 1x1",
            -inf,
            1e-06,
            "Lin, Chen, Yan 2014, section 3.1",
        ),
        (
            "L9",
            "largest difference if pixels are moved before the convolution instead of after it, of the largest "
            "output, 1x1",
            -inf,
            1e-06,
            "Lin, Chen, Yan 2014, section 3.1",
        ),
        (
            "L9",
            "largest difference if pixels are moved before the convolution instead of after it, of the largest "
            "output, 3x3",
            0.1,
            inf,
            "Lin, Chen, Yan 2014, section 3.1",
        ),
    ],
    "lesions": [
        (
            "L15",
            "median rise of the test error by deleting one block, points, residual",
            -inf,
            5,
            "Veit, Wilber, Belongie 2016, Figure 3",
        ),
        (
            "L15",
            "median rise of the test error by deleting one block, points, plain",
            20,
            inf,
            "Veit, Wilber, Belongie 2016, Figure 3",
        ),
        (
            "L15",
            "rank correlation of the test error with the number of deleted blocks, residual",
            0.9,
            inf,
            "Veit, Wilber, Belongie 2016, Figure 5a",
        ),
        (
            "L15",
            "mean length of a path, weighted by number and gradient, over the number of blocks",
            -inf,
            0.4,
            "Veit, Wilber, Belongie 2016, Figure 6",
        ),
    ],
    "boxes": [
        (
            "L16",
            "channels times side of the plane, last stage over first, ResNet50",
            1,
            1,
            "He et al. 2016, section 3.3",
        ),
        (
            "L16",
            "channels times side of the plane, last stage over first, VGG16",
            0.5,
            0.5,
            "Simonyan and Zisserman 2015, section 2.1",
        ),
    ],
    "reuse": [
        (
            "L17",
            "weight of the first third of a block's layers, in units of the mean over all sources",
            0.5,
            inf,
            "Huang et al. 2017, section 5",
        ),
        (
            "L17",
            "weight of the source that transitions use least, in units of the mean over all sources",
            0.3,
            inf,
            "Huang et al. 2017, section 5",
        ),
        (
            "L17",
            "weight of a block's input in blocks 2 and 3, in units of the mean over all sources",
            -inf,
            1,
            "Huang et al. 2017, section 5",
        ),
        (
            "L17",
            "weight that the classifier gives to the last third of block 3, in units of the first third",
            1,
            inf,
            "Huang et al. 2017, section 5",
        ),
    ],
    "gates": [
        (
            "L18",
            "share of the gates' variance that is between classes, last stage minus first",
            0.1,
            inf,
            "Hu, Shen, Sun 2018, Figure 6",
        ),
        ("L18", "share of the gates above 0.9 in the last block", 0.5, inf, "Hu, Shen, Sun 2018, Figure 6"),
        (
            "L18",
            "rise of the test error by constant gates, last stage minus first, points",
            0,
            inf,
            "Hu, Shen, Sun 2018, Figure 6",
        ),
    ],
    "scaling": [
        (
            "L19",
            "gain of the second doubling minus that of the first, mean of the three dimensions, points",
            -inf,
            0,
            "Tan and Le 2019, section 3.2, observation 1",
        ),
        (
            "L19",
            "accuracy of scaling all three minus that of the best dimension alone, after two doublings, points",
            0,
            inf,
            "Tan and Le 2019, section 3.2, observation 2",
        ),
    ],
    "frontier": [
        (
            "L20",
            "test error of EfficientNet minus that of ResNet at the same multiply-adds, points",
            -inf,
            0,
            "Tan and Le 2019, Table 2",
        ),
        (
            "L20",
            "test error of EfficientNet minus that of DenseNet at the same multiply-adds, points",
            -inf,
            0,
            "Tan and Le 2019, Table 2",
        ),
    ],
    "closing": [
        (
            "L21",
            "top-1 accuracy per million parameters, GoogLeNet over the best of the other three",
            1,
            inf,
            "Canziani et al. 2016, Figure 10",
        ),
        (
            "L21",
            "top-1 accuracy per G multiply-adds, GoogLeNet over the best of the other three",
            1,
            inf,
            "the lecture; Canziani et al. 2016, Figure 2",
        ),
        (
            "L21",
            "top-1 accuracy per G multiply-adds, GoogLeNet over EfficientNetB0",
            -inf,
            1,
            "Tan and Le 2019, Table 2",
        ),
    ],
    "backbone": [
        ("L22", "feature maps at the strides 4, 8, 16 and 32, VGG16", 4, 4, "Lin et al. 2017, section 3"),
        ("L22", "feature maps at the strides 4, 8, 16 and 32, ResNet50", 4, 4, "Lin et al. 2017, section 3"),
        (
            "L23",
            "intersection over union of the ink, %, trained minus random backbone, many images",
            0,
            inf,
            "Yosinski et al. 2014, section 4",
        ),
        (
            "L23",
            "distance of the centre, pixels, trained minus random backbone, many images",
            -inf,
            0,
            "Yosinski et al. 2014, section 4",
        ),
        (
            "L23",
            "intersection over union of the ink, %, trained backbone minus from scratch, few images",
            0,
            inf,
            "Girshick et al. 2014, section 3.3",
        ),
    ],
    "offsets": [
        (
            "L24",
            "accuracy on scaled digits with trained offsets minus without, points",
            10,
            inf,
            "felixlaumon, deform-conv, 2017: 57.0 to 92.6 %",
        ),
        (
            "L24",
            "distance of the last layer's points in large digits over that in small ones",
            1.02,
            inf,
            "Dai et al. 2017, Table 3",
        ),
    ],
}
