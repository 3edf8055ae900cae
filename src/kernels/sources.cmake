# The kernels' files and their flags. Only files named here with an -m flag may use the instructions it allows;
# kernels.c decides at run time which of them are called.
set(kernels ${CMAKE_CURRENT_SOURCE_DIR}/src/kernels)
set(VM_KERNEL_SOURCES
    ${kernels}/kernels.c
    ${kernels}/count.c
    ${kernels}/gemm.c
    ${kernels}/rows.c
    ${kernels}/peak.c
    ${kernels}/ref/gemm_ref.c
    ${kernels}/ref/elementwise_ref.c)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
    set(avx2 -mavx2 -mfma)
    set(avx512 ${avx2} -mavx512f -mavx512bw -mavx512dq -mavx512vl -mprefer-vector-width=512)
    function(vm_kernel_files)
        cmake_parse_arguments(PARSE_ARGV 0 arg "" "" "FILES;OPTIONS")
        foreach(file ${arg_FILES})
            set_source_files_properties(${kernels}/${file} PROPERTIES COMPILE_OPTIONS "${arg_OPTIONS}")
            list(APPEND VM_KERNEL_SOURCES ${kernels}/${file})
        endforeach()
        set(VM_KERNEL_SOURCES ${VM_KERNEL_SOURCES} PARENT_SCOPE)
    endfunction()
    vm_kernel_files(FILES avx2/gemm_avx2.c avx2/kernels_avx2.c avx2/peak_avx2.c OPTIONS ${avx2})
    vm_kernel_files(FILES avx512/pack_avx512.c avx512/gemm_f32_avx512.c avx512/gemm_unpack_avx512.c avx512/kernels_avx512.c
        avx512/peak_avx512.c OPTIONS ${avx512})
    vm_kernel_files(FILES avx512/gemm_bf16_avx512.c avx512/peak_bf16_avx512.c OPTIONS ${avx512} -mavx512bf16)
    vm_kernel_files(FILES amx/gemm_amx.c amx/strip_amx.c amx/peak_amx.c OPTIONS ${avx512} -mamx-tile -mamx-bf16)
endif()
list(APPEND VMOER_SOURCES ${VM_KERNEL_SOURCES})
# They read no file, and take minutes to compile with what watches the parsers.
if(VMOER_FUZZ)
    set_property(SOURCE ${VM_KERNEL_SOURCES} APPEND PROPERTY COMPILE_OPTIONS -fno-sanitize=all)
endif()
